-- Extend a value's life without changing it. KEYS[1] entry; ARGV[1] soft and hard expiry as they stand in the entry (16
-- bytes), ARGV[2] how long it lives in ms (0 = for ever), ARGV[3] now, ms. Returns 1 if there was a value that had not ended.
local head = redis.call('GETRANGE', KEYS[1], 0, 63)
if string.sub(head, 1, 1) ~= 'V' or #head < 64 then return 0 end
local hard = struct.unpack('>I8', string.sub(head, 57, 64))
if hard ~= 0 and hard <= tonumber(ARGV[3]) then return 0 end
redis.call('SETRANGE', KEYS[1], 48, ARGV[1])
if ARGV[2] == '0' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1

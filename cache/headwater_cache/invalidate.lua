-- Stop serving what is there: the entry becomes a fence of its own version, and a load in flight loses its lease.
-- KEYS[1] entry; ARGV[1] how long a fence lives, ms (0 = for ever), ARGV[2] only if it has this version ('' = any).
-- Returns 1 if there was something to stop.
local head = redis.call('GETRANGE', KEYS[1], 0, 71)
if ARGV[2] ~= '' and string.sub(head, 11, 40) ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1] .. ':l')
if head == '' then return 0 end
local fence = 'F' .. string.sub(head, 2) .. '\0\0'
if ARGV[1] == '0' then redis.call('SET', KEYS[1], fence) else redis.call('SET', KEYS[1], fence, 'PX', ARGV[1]) end
return 1

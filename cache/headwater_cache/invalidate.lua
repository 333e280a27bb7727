-- Stop serving what is there: the entry becomes a fence of its own version, and a load in flight loses its lease.
-- KEYS[1] entry, ARGV[1] how long a fence lives, ms. Returns 1 if there was something to stop.
redis.call('DEL', KEYS[1] .. ':l')
local head = redis.call('GETRANGE', KEYS[1], 0, 71)
if head == '' then return 0 end
redis.call('SET', KEYS[1], 'F' .. string.sub(head, 2) .. '\0\0', 'PX', ARGV[1])
return 1

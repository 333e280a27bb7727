-- Invalidate everything that carries a tag: note on the tag's name when that was, on a clock of the namespace's own.
-- KEYS[1] hash of tags, its field '' is the clock; ARGV tags. Returns the time.
local now = redis.call('HINCRBY', KEYS[1], '', 1)
for i = 1, #ARGV do redis.call('HSET', KEYS[1], ARGV[i], now) end
return now

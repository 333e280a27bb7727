-- Make an epoch the live one, unless a later one is. KEYS[1] pointer, ARGV[1] epoch. Returns 1 if it is live now.
local live = tonumber(redis.call('GET', KEYS[1]) or '0')
local epoch = tonumber(ARGV[1])
if live < epoch then redis.call('SET', KEYS[1], ARGV[1]) end
return live <= epoch and 1 or 0

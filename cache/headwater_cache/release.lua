-- Give a lease back, unless it is no longer ours. KEYS[1] entry, ARGV[1] token. Returns 1 if it was.
if redis.call('GET', KEYS[1] .. ':l') == ARGV[1] then return redis.call('DEL', KEYS[1] .. ':l') end
return 0

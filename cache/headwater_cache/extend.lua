-- Hold a lock for longer, if it is still ours. KEYS[1] lock, ARGV[1] token, ARGV[2] from now on, ms. Returns 1 if it was.
if redis.call('GET', KEYS[1] .. ':l') ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1] .. ':l', ARGV[2])

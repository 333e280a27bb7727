-- May one more reader, who waited in vain for the lease holder, pass to the source? At most so many over all processes and per
-- life of a lease. KEYS[1] entry, ARGV[1] how many, ARGV[2] life of a lease, ms. Returns 1 or 0.
local passed = redis.call('INCR', KEYS[1] .. ':p')
if passed == 1 then redis.call('PEXPIRE', KEYS[1] .. ':p', ARGV[2]) end
return passed <= tonumber(ARGV[1]) and 1 or 0

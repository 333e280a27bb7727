-- Take a lock, with a fencing token that is larger than every one before it.
--
-- KEYS[1]  the lock; its holder is <lock>:l, as token:name, the last token <lock>:n, in the same slot by the hash tag
-- ARGV[1]  how long it is held at most, ms   ARGV[2] name of who asks, which nobody else has
--
-- Returns the token as text, or '' = another holds it. A token is at least the server's clock in microseconds, so tokens go
-- on growing when the last one was lost (emptied, evicted, failed over), as long as the clocks of the servers agree.
local holder = redis.call('GET', KEYS[1] .. ':l')
if holder then
  local held, name = string.match(holder, '^(%d+):(.*)$')
  if name ~= ARGV[2] then return '' end
  redis.call('PEXPIRE', KEYS[1] .. ':l', ARGV[1]) -- asked again, because the first reply was lost
  return held
end
local now = redis.call('TIME')
local token = now[1] .. string.format('%06d', now[2])
local last = redis.call('GET', KEYS[1] .. ':n')
if last and last >= token then token = string.format('%.0f', tonumber(last) + 1) end
redis.call('SET', KEYS[1] .. ':n', token, 'PX', 604800000)
redis.call('SET', KEYS[1] .. ':l', token .. ':' .. ARGV[2], 'PX', ARGV[1])
return token

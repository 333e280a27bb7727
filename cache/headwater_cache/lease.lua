-- Take the lease of an entry: one holder over all processes.
--
-- KEYS[1]  entry
-- ARGV[1]  token   ARGV[2] how long the lease lives, ms   ARGV[3] version domain, padded
-- ARGV[4]  what the caller saw: the first 64 bytes of the entry ('' = absent); '?' = a writer, who has not looked and needs a
--          lease only if the key is absent, fenced or negative
--
-- Returns {g} granted · {h} held by another · {p} a writer needs none · {c, entry} no longer what the caller saw
local old = redis.call('GETRANGE', KEYS[1], 0, 63)
if ARGV[4] == '?' then
  local state = string.sub(old, 1, 1)
  if (state == 'V' or state == 'T') and string.sub(old, 3, 10) == ARGV[3] then return {'p'} end
elseif old ~= ARGV[4] then
  return {'c', redis.call('GET', KEYS[1])}
end
if redis.call('SET', KEYS[1] .. ':l', ARGV[1], 'NX', 'PX', ARGV[2]) then return {'g'} end
if redis.call('GET', KEYS[1] .. ':l') == ARGV[1] then return {'g'} end -- asked again, because the first reply was lost
return {'h'}

-- The index of the tasks: which are of a type and in a state, by when they were submitted. Idempotent by version.
--
-- KEYS[1]  a hash: task -> version, time and place of its last state; the sets are KEYS[1] .. ':' .. place
-- ARGV[1]  msgpack: a list of [id, version (19 digits), time (16 digits), place (type/state)]
--
-- The members of a set are time.id, all of one score, so they stand in the order of time, then id.
-- Returns how many were news.
local news = 0
for _, task in ipairs(cmsgpack.unpack(ARGV[1])) do
  local id, version, time, place = task[1], task[2], task[3], task[4]
  local old = redis.call('HGET', KEYS[1], id)
  if not old or string.sub(old, 1, 19) < version then
    if old then redis.call('ZREM', KEYS[1] .. ':' .. string.sub(old, 36), string.sub(old, 20, 35) .. '.' .. id) end
    redis.call('ZADD', KEYS[1] .. ':' .. place, 0, time .. '.' .. id)
    redis.call('HSET', KEYS[1], id, version .. time .. place)
    news = news + 1
  end
end
return news

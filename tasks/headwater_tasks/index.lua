-- The index of the tasks: which are of a type and in a state, by when they were submitted. Idempotent by version.
--
-- KEYS[1]  a hash: task -> version, time, offset and place of its last state; the sets are KEYS[1] .. ':' .. place, and
--          the types KEYS[1] .. ':types'
-- ARGV[1]  msgpack: a list of [id, version (19 digits), time (16 digits), offset (20 digits, or 20 spaces: not from the
--          change topic), place (type/state; '' removes the task), mends (1: this record only repeats what has won)]
--
-- The members of a set are time.id, all of one score, so they stand in the order of time, then id.
-- Returns the tasks whose newest state stands on the log in front of this older one: a compacted log would keep the
-- wrong one of the two, so it must be said again.
local lost, types = {}, {}
for _, task in ipairs(cmsgpack.unpack(ARGV[1])) do
  local id, version, time, offset, place, mends = task[1], task[2], task[3], task[4], task[5], task[6]
  local old = redis.call('HGET', KEYS[1], id)
  local old_version = old and string.sub(old, 1, 19)
  if not old or old_version < version then
    if old then redis.call('ZREM', KEYS[1] .. ':' .. string.sub(old, 56), string.sub(old, 20, 35) .. '.' .. id) end
    if place == '' then
      redis.call('HDEL', KEYS[1], id)
    else
      types[string.match(place, '^(.*)/')] = true
      redis.call('ZADD', KEYS[1] .. ':' .. place, 0, time .. '.' .. id)
      redis.call('HSET', KEYS[1], id, version .. time .. offset .. place)
    end
  else
    local old_offset = string.sub(old, 36, 55)
    if old_offset < offset and old_offset ~= string.rep(' ', 20) then
      if mends == 1 and old_version == version then
        redis.call('HSET', KEYS[1], id, string.sub(old, 1, 35) .. offset .. string.sub(old, 56))
      else
        lost[#lost + 1] = id
      end
    end
  end
end
for name in pairs(types) do redis.call('SADD', KEYS[1] .. ':types', name) end
return lost

-- The one versioned apply: write-through, fill and change events all pass here.
--
-- KEYS     entries; the lease of an entry is <entry>:l and its last refusal <entry>:x, in the same slot by the hash tag
-- ARGV[1]  who writes: E change event, W write-through, L lease holder that loaded from the source
-- ARGV[2]  1 if this writer may turn an absent, fenced or negative key into a value without a lease (a view's in-order
--          event path), else 0
-- ARGV[3]  how long a fence lives, ms
-- ARGV[4]  three fields per key, joined: the new entry, the lease token ('' = none), how long it lives in ms (0 = for ever)
-- ARGV[5]  the sizes of the fields, as an array in MessagePack
--
-- Returns one letter per key: a applied, c created under a lease, r refreshed, f fenced, s stale, e equal, l lease lost,
-- d other version domain (fenced).
--
-- The head of an entry: state 1, format 2, domain 3-10, version 11-40, stamps and sizes 41-74. Behind the head of a fence stands V
-- if what is known to be newer is a value. Versions are digits of fixed width, compared as text: Lua's numbers lose bits above
-- 2^53.
local who, may_create, fence_ms = ARGV[1], ARGV[2] == '1', ARGV[3]
local fields, from = {}, 1
for i, size in ipairs(cmsgpack.unpack(ARGV[5])) do
  fields[i] = string.sub(ARGV[4], from, from + size - 1)
  from = from + size
end

local function store(key, entry, ttl)
  if ttl == '0' then redis.call('SET', key, entry) else redis.call('SET', key, entry, 'PX', ttl) end
  redis.call('DEL', key .. ':l') -- rule 2: a newer apply voids the lease, always
end

local function fence(key, entry)
  local value = string.sub(entry, 1, 1) == 'V' and 'V' or ''
  store(key, 'F' .. string.sub(entry, 2, 72) .. '\0\0' .. value, fence_ms)
  return 'f'
end

-- The source had none: no version of its own, so what is known stays as its lower bound, and as long as it would have.
-- Over the fence of a value either the source lags, or the row was deleted and nobody told of it yet. It is taken to lag for as
-- long as a negative entry is believed; after that it would have caught up.
local function negative(key, entry, ttl, old_state, old_version)
  if old_state == 'T' then redis.call('DEL', key .. ':l') return 'e' end
  local left = redis.call('PTTL', key)
  if old_state == 'F' and left > 0 and tonumber(fence_ms) - left < tonumber(ttl)
    and redis.call('GETRANGE', key, 74, 74) == 'V' then
    redis.call('DEL', key .. ':l')
    return 's'
  end
  if ttl ~= '0' and left > tonumber(ttl) then ttl = string.format('%d', left) end
  store(key, string.sub(entry, 1, 10) .. old_version .. string.sub(entry, 41), ttl)
  return 'c'
end

local function apply(key, entry, token, ttl)
  local live = token ~= '' and redis.call('GET', key .. ':l') == token
  if who == 'L' and not live then return 'l' end
  local old = redis.call('GETRANGE', key, 0, 39)
  local may_serve = live or may_create -- rule 1
  if old == '' then
    if not may_serve then return fence(key, entry) end
    store(key, entry, ttl)
    return live and 'c' or 'a'
  end
  if string.sub(old, 3, 10) ~= string.sub(entry, 3, 10) then -- one domain per namespace: nothing to compare
    if not may_serve then fence(key, entry) return 'd' end
    store(key, entry, ttl)
    return 'd'
  end
  local state, version = string.sub(entry, 1, 1), string.sub(entry, 11, 40)
  local old_state, old_version = string.sub(old, 1, 1), string.sub(old, 11, 40)
  if state == 'N' then return negative(key, entry, ttl, old_state, old_version) end
  if version < old_version then -- rule 3
    if live then redis.call('DEL', key .. ':l') end
    return 's'
  end
  if old_state == 'F' or old_state == 'N' then
    if may_serve then
      store(key, entry, ttl)
      return live and 'c' or 'a'
    end
    if old_state == 'F' and version == old_version then return 'e' end
    return fence(key, entry) -- rule 4: a late event of a missing row's past never becomes a value
  end
  if version == old_version then
    if state == 'T' and old_state == 'V' then store(key, entry, ttl) return 'a' end
    if who ~= 'L' then return 'e' end
    if state ~= old_state then redis.call('DEL', key .. ':l') return 'e' end
    store(key, entry, ttl)
    return 'r'
  end
  store(key, entry, ttl)
  return 'a'
end

local out = {}
for i = 1, #KEYS do
  local at = 3 * i - 2
  local result = apply(KEYS[i], fields[at], fields[at + 1], fields[at + 2])
  if result == 'l' or result == 'd' or (result == 's' and who ~= 'E') then -- for explain; events that repeat are no news
    redis.call('SET', KEYS[i] .. ':x', result .. who .. string.sub(fields[at], 1, 48), 'PX', 3600000)
  end
  out[i] = result
end
return table.concat(out)

-- Move watermarks on, unless Redis has forgotten something (failover, emptied, old backup): then moving on would hide it.
--
-- KEYS[1]  hash of watermarks
-- ARGV[1]  mark of the batch; it was written behind the batch's entries, on the same connection
-- ARGV     per partition: field, the watermark that must be there at least, the new one; fixed-width text
--
-- Returns one letter per partition: o moved on or already further, g gap.
local out = {}
for i = 2, #ARGV, 3 do
  local stored = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  if stored < ARGV[i + 1] or redis.call('HGET', KEYS[1], ARGV[i] .. ':batch') ~= ARGV[1] then
    out[#out + 1] = 'g'
  else
    if stored < ARGV[i + 2] then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2]) end
    out[#out + 1] = 'o'
  end
end
return table.concat(out)

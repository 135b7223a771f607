-- A node whose lease is gone: exactly one survivor takes its routes out and its wills over.
-- The wills stay stored, as the survivor's, until they are published: if it dies too, the next one reaps them.
-- KEYS lease, nodes, routes, log, version, wills, wills of the survivor, clients on the node
-- ARGV the dead node, prefix of `client:`
if redis.call('EXISTS', KEYS[1]) == 1 or redis.call('SREM', KEYS[2], ARGV[1]) == 0 then return {} end
if redis.call('DEL', KEYS[3]) == 1 then
  local version = redis.call('INCR', KEYS[5])
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', '100000', version .. '-1', 'n', ARGV[1], 'o', 'x', 'f', '')
end
for _, id in ipairs(redis.call('SMEMBERS', KEYS[8])) do
  if redis.call('HGET', ARGV[2] .. id, 'node') == ARGV[1] then redis.call('DEL', ARGV[2] .. id) end
end
redis.call('DEL', KEYS[8])
local wills = redis.call('HGETALL', KEYS[6])
for i = 1, #wills, 2 do redis.call('HSET', KEYS[7], wills[i], wills[i + 1]) end
redis.call('DEL', KEYS[6])
return wills

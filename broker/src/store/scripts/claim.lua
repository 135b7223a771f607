-- A client connects: this node owns its id from now on, and the node that owned it is told.
-- KEYS client, epoch, wills of this node, clients on this node
-- ARGV node, client id, will or '', prefix of inboxes, prefix of `on:`
local now = redis.call('TIME')
local epoch = tonumber(now[1]) * 1000000 + tonumber(now[2])
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
-- By the clock, so that an emptied Redis does not begin anew; never twice.
if epoch <= last then epoch = last + 1 end
epoch = string.format('%.0f', epoch)
redis.call('SET', KEYS[2], epoch)
local owner = redis.call('HGET', KEYS[1], 'node')
redis.call('HSET', KEYS[1], 'node', ARGV[1], 'epoch', epoch)
redis.call('SADD', KEYS[4], ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[3], epoch, ARGV[3]) end
if owner and owner ~= ARGV[1] then
  redis.call('SREM', ARGV[5] .. owner, ARGV[2])
  redis.call('PUBLISH', ARGV[4] .. owner, 'K' .. epoch .. ':' .. ARGV[2])
end
return epoch

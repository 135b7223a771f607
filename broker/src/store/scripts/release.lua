-- A connection has ended and its will is dealt with. Somebody else's claim is left alone.
-- KEYS client, wills of this node, clients on this node   ARGV epoch, client id
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[3], ARGV[2])
return 1

-- The newest retained message of a topic: who comes last wins, here and so everywhere.
-- KEYS retained, log, version   ARGV topic, message or ''
if ARGV[2] == '' then
  if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
local version = redis.call('INCR', KEYS[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', '10000', version .. '-1', 't', ARGV[1], 'm', ARGV[2])
return version

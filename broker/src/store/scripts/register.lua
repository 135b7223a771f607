-- A node says all the filters it wants, as if it had wanted none.
-- KEYS routes of the node, log, version   ARGV node, filters…
redis.call('DEL', KEYS[1])
local function log(op, filter)
  local version = redis.call('INCR', KEYS[3])
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', '100000', version .. '-1', 'n', ARGV[1], 'o', op, 'f', filter)
end
log('x', '')
for i = 2, #ARGV do
  if redis.call('SADD', KEYS[1], ARGV[i]) == 1 then log('+', ARGV[i]) end
end
return redis.call('GET', KEYS[3])

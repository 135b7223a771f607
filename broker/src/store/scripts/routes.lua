-- A node's wishes change. Only what is new is logged, so that a repeated batch is harmless.
-- KEYS routes of the node, log, version   ARGV node, then pairs of + or - and a filter
for i = 2, #ARGV, 2 do
  local command = ARGV[i] == '+' and 'SADD' or 'SREM'
  if redis.call(command, KEYS[1], ARGV[i + 1]) == 1 then
    local version = redis.call('INCR', KEYS[3])
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', '100000', version .. '-1', 'n', ARGV[1], 'o', ARGV[i], 'f', ARGV[i + 1])
  end
end
return redis.call('GET', KEYS[3])

-- A node is alive. Answers 0 if it was not registered (new, reaped, or Redis lost it): then it must say all it wants again.
-- KEYS lease, nodes, dying   ARGV node, name, milliseconds
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('SREM', KEYS[3], ARGV[1])
return 1 - redis.call('SADD', KEYS[2], ARGV[1])

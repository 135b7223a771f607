-- A node says that a client is connected to it, after Redis may have forgotten that.
-- ARGV … key of the client, shard, client id, epoch, session or '', will or ''
-- Answers 0: somebody else has the client id by now; 1: so it is; 2: so it is, but the session is gone.
local client, shard, id, epoch, session, will = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local stored = call('HGET', client, 'epoch')
if stored and tonumber(stored) > tonumber(epoch) then return 0 end
call('HSET', client, 'node', own, 'epoch', epoch)
call('SADD', prefix .. 'on:' .. own, shard .. ':' .. id)
if will ~= '' then call('HSET', client, 'will', will) end
if session == '' then return 1 end
call('HSET', client, 'session', session)
if call('EXISTS', of(session, 's')) == 0 then return 2 end
call('HSET', of(session, 's'), 'node', own, 'epoch', epoch)
call('HDEL', of(session, 's'), 'parted')
call('ZREM', prefix .. 'agenda', session)
return 1

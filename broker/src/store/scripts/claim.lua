-- A client connects: from now on this node owns its id and its session, and whoever owned them is told. Every later write
-- to the session carries the epoch that is given here.
-- ARGV … key of the client, client id, shard, will or '', expiry in seconds, '1' for a clean start, epoch that this
--   claim is instead of or '', '1' if Redis is full: then only who is known is let in, to take what waits
local client, id, shard, will, expiry, clean = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), ARGV[8]
local before = call('HMGET', client, 'node', 'session', 'will', 'epoch')
if ARGV[10] == '1' and not before[4] then return redis.error_reply('OOM a new client needs room') end
local time = call('TIME')
-- By the clock, so that an emptied Redis does not begin anew; never twice.
local epoch = time[1] * 1000000 + time[2]
local last = tonumber(call('GET', prefix .. 'epoch') or '0')
if epoch <= last then epoch = last + 1 end
epoch = whole(epoch)
call('SET', prefix .. 'epoch', epoch)

local owner, session, owes = before[1], before[2], 0
if before[4] == ARGV[9] then before[3] = false end
if session and call('EXISTS', of(session, 's')) == 0 then session = false end
if session and clean == '1' then
  close(session)
  session = false
end
-- A will that can wait is not wanted any more where the session goes on.
if before[3] and not (session and delay_of(before[3]) > 0) then
  owe(before[4], before[3])
  owes = 1
end

local resumed, sent = session and 1 or 0, false
if session then
  -- From now on, only the one who sends knows.
  sent = call('HGET', of(session, 's'), 'sent')
  call('HSET', of(session, 's'), 'epoch', epoch, 'node', own, 'expiry', expiry)
  call('HDEL', of(session, 's'), 'parted', 'sent', 'oldest')
  call('ZREM', prefix .. 'agenda', session)
elseif expiry > 0 then
  local number = tonumber(call('GET', prefix .. 'session') or '0') + 1
  session = whole(number + (shard - number) % 1024)
  call('SET', prefix .. 'session', session)
  call('HSET', of(session, 's'), 'client', id, 'epoch', epoch, 'node', own, 'expiry', expiry, 'next', 1, 'head', 1, 'bytes', 0)
  call('SADD', prefix .. 'sessions', session)
end

call('HSET', client, 'node', own, 'epoch', epoch)
if session then call('HSET', client, 'session', session) else call('HDEL', client, 'session') end
if will ~= '' then call('HSET', client, 'will', will) else call('HDEL', client, 'will') end
call('SADD', prefix .. 'on:' .. own, shard .. ':' .. id)
if owner and owner ~= own then
  call('SREM', prefix .. 'on:' .. owner, shard .. ':' .. id)
  call('PUBLISH', prefix .. 'in:' .. owner, 'K' .. epoch .. ':' .. id)
end
return { epoch, session or '', resumed, owes, sent or '' }

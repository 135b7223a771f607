-- What is done with, and what sessions are now. It is taken by a full Redis too: most of it makes room. A batch that comes
-- again changes nothing; what comes under an epoch that is not the session's any more is void, answered 0.
-- ARGV … number of the batch, 0 for what may come twice and among others, then steps, each a letter and its arguments
local at = 3
local function take()
  at = at + 1
  return ARGV[at - 1]
end
local number = tonumber(take())
local batch = prefix .. 'steps:' .. own
if number > 0 then
  if tonumber(call('GET', batch) or '0') >= number then return { 'again' } end
  call('SET', batch, whole(number), 'EX', '86400')
end

local known = {}
-- The session of a step that may be taken.
local function mine()
  local session, epoch = take(), take()
  local there = known[session]
  if there == nil then
    there = call('HGET', of(session, 's'), 'epoch')
    known[session] = there
  end
  return there == epoch and session or nil
end

local steps = {}

-- Places that are looked at for all steps together, and for one: Redis does nothing else meanwhile.
local looks, most = 20000, 1000

-- The first place that may be taken follows what is done with.
local function advance(session)
  local info = call('HMGET', of(session, 's'), 'head', 'next')
  local from, upto = tonumber(info[1]), tonumber(info[2])
  local head, last = from, math.min(upto, from + math.min(looks, most))
  while head < last and call('HEXISTS', of(session, 'q'), whole(head)) == 0 do head = head + 1 end
  looks = looks - (head - from)
  if head > from then call('HSET', of(session, 's'), 'head', whole(head)) end
end

-- Done with the message at a place.
function steps.D()
  local session, place = mine(), take()
  if not session then return 0 end
  local size = call('HSTRLEN', of(session, 'q'), place)
  if size == 0 then return 1 end
  call('HDEL', of(session, 'q'), place)
  call('SREM', of(session, 'r'), place)
  call('HINCRBY', of(session, 's'), 'bytes', -size)
  advance(session)
  return 1
end

-- The client has the message at a place: PUBREL is next.
function steps.R()
  local session, place = mine(), take()
  if not session then return 0 end
  if call('HEXISTS', of(session, 'q'), place) == 1 then call('SADD', of(session, 'r'), place) end
  return 1
end

-- A packet identifier of the client's own is held, or free again.
function steps.H()
  local session, id = mine(), take()
  if not session then return 0 end
  call('SADD', of(session, 'i'), id)
  return 1
end
function steps.L()
  local session, id = mine(), take()
  if not session then return 0 end
  call('SREM', of(session, 'i'), id)
  return 1
end

-- A filter, and how it is wanted; '': not any more.
function steps.F()
  local session, filter, terms = mine(), take(), take()
  if not session then return 0 end
  if terms == '' then
    if call('HDEL', of(session, 'f'), filter) == 1 then log(session, '-', filter, '') end
  elseif call('HGET', of(session, 'f'), filter) ~= terms then
    call('HSET', of(session, 'f'), filter, terms)
    log(session, '+', filter, terms)
  end
  return 1
end

-- A message at a place that is known: what a node remembers after Redis has forgotten it.
function steps.E()
  local session, place, entry = mine(), take(), take()
  if not session then return 0 end
  local key = of(session, 's')
  local old = call('HSTRLEN', of(session, 'q'), place)
  call('HSET', of(session, 'q'), place, entry)
  call('HINCRBY', key, 'bytes', #entry - old)
  local info = call('HMGET', key, 'next', 'head')
  if tonumber(place) >= tonumber(info[1]) then call('HSET', key, 'next', whole(tonumber(place) + 1)) end
  if tonumber(place) < tonumber(info[2]) then call('HSET', key, 'head', place) end
  return 1
end

-- A session is there, under this epoch; its client is connected here. Nobody but who has the client id may say so.
function steps.O()
  local session, epoch, id, expiry = take(), take(), take(), take()
  if call('HGET', client_of(session, id), 'epoch') ~= epoch then return 0 end
  local key = of(session, 's')
  if tonumber(call('GET', prefix .. 'session') or '0') < tonumber(session) then call('SET', prefix .. 'session', session) end
  call('SADD', prefix .. 'sessions', session)
  for field, value in pairs({ next = 1, head = 1, bytes = 0 }) do call('HSETNX', key, field, value) end
  call('HSET', key, 'client', id, 'epoch', epoch, 'node', own, 'expiry', expiry)
  call('HDEL', key, 'parted')
  call('ZREM', prefix .. 'agenda', session)
  known[session] = epoch
  return 1
end

-- A connection has ended: its session stays for a while, or ends with it. The will that is due comes back.
function steps.P()
  local client, shard, id, epoch = take(), take(), take(), take()
  local expiry, keeps_will, sent = tonumber(take()), take() == '1', take()
  local stored = call('HMGET', client, 'epoch', 'session', 'will')
  if stored[1] ~= epoch then return 0 end
  local session, will = stored[2], keeps_will and stored[3]
  -- A claim of which nothing came has no terms of its own.
  if not expiry then expiry = session and tonumber(call('HGET', of(session, 's'), 'expiry') or '0') or 0 end
  call('SREM', prefix .. 'on:' .. own, shard .. ':' .. id)
  local is_there = session and call('EXISTS', of(session, 's')) == 1
  if not is_there or expiry == 0 then
    -- What is too much for this call ends as what nobody comes back to.
    if is_there and budget <= 0 then part(session, 0, 0) elseif session then close(session) end
    if session then known[session] = false end
    call('DEL', client)
    return will and owe(epoch, will) or 1
  end
  call('HDEL', client, 'node')
  if sent ~= '' then call('HSET', of(session, 's'), 'sent', sent) end
  local due = will and delay_of(will) or expiry
  if not will or due == 0 then call('HDEL', client, 'will') end
  part(session, expiry, (will and due > 0) and due or expiry)
  return (will and due == 0) and owe(epoch, will) or 1
end

local answers = {}
while at <= #ARGV do answers[#answers + 1] = steps[take()]() end
return { 'first', answers }

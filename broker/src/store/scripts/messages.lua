-- A batch of messages for sessions' queues. The first write is one that a full Redis refuses, so that all of it is taken
-- or nothing is; a batch that comes again changes nothing.
-- ARGV … number of the batch, most messages of a queue, most bytes, policy, then messages:
--   bytes, number of receivers, its sender's session or '', epoch of that, packet identifier to hold or '', will that it was or '',
--   then for each receiver: session, head of the entry
local at = 3
local function take()
  at = at + 1
  return ARGV[at - 1]
end
local number, most, most_bytes, policy = tonumber(take()), tonumber(take()), tonumber(take()), take()
local batch = prefix .. 'batch:' .. own
if tonumber(call('GET', batch) or '0') >= number then return { 'again' } end
call('SET', batch, whole(number), 'EX', '86400')

local hints, dropped, answers = {}, 0, {}
local function hint(owner, session, place, entry)
  local known = hints[owner]
  if not known then
    known = {}
    hints[owner] = known
  end
  known[#known + 1] = struct.pack('>I8I8I4', tonumber(session), place, #entry) .. entry
end

-- Places that are looked at for all messages together, and for one in any case: Redis does nothing else meanwhile.
local looks, fewest = 20000, 64

-- The oldest from a place on that the client does not have goes: its size if there is one, where to look on, and the first
-- place that may hold something then.
local function drop_oldest(session, from, head, upto)
  while from < upto and looks > 0 do
    looks = looks - 1
    local name = whole(from)
    local size = call('HSTRLEN', of(session, 'q'), name)
    local goes = size > 0 and call('SISMEMBER', of(session, 'r'), name) == 0
    if from == head and (goes or size == 0) then head = head + 1 end
    from = from + 1
    if goes then
      call('HDEL', of(session, 'q'), name)
      dropped = dropped + 1
      return size, from, head
    end
  end
  return nil, from, head
end

-- The place that an entry got if its client is on this node; else 0: taken, -1: no such session, -2: no room, -3: the session
-- ends for it.
local function enqueue(session, entry)
  local key = of(session, 's')
  local info = call('HMGET', key, 'next', 'node', 'bytes', 'head', 'sent', 'oldest')
  if not info[1] then return -1 end
  local place, owner, bytes, head = tonumber(info[1]), info[2], tonumber(info[3]), tonumber(info[4])
  local more, count = most_bytes, nil
  -- A client that is there is given more: what it has been sent already cannot give way here.
  if owner then more = 4 * most_bytes else count = call('HLEN', of(session, 'q')) end
  -- Where the oldest is looked for: what was sent stays, and where it was looked before is nothing.
  local oldest = math.max(head, tonumber(info[5] or '0'), tonumber(info[6] or '0'))
  local gave_way = false
  looks = math.max(looks, fewest)
  while bytes + #entry > more or (count and count >= most) do
    if policy == 'disconnect' then
      if not owner then
        call('HSET', key, 'expiry', 0)
        call('ZADD', prefix .. 'agenda', 0, session)
      elseif owner ~= own then hint(owner, session, 0, '') end
      return -3
    end
    if policy == 'drop-newest' or owner or #entry > more then return -2 end
    local size
    size, oldest, head = drop_oldest(session, oldest, head, place)
    call('HSET', key, 'oldest', whole(oldest), 'head', whole(head))
    if not size then
      -- What gave way must not have done so for nothing.
      if gave_way then break end
      return -2
    end
    gave_way, bytes, count = true, bytes - size, count - 1
  end
  call('HSET', key, 'next', whole(place + 1), 'bytes', whole(bytes + #entry), 'head', whole(head))
  call('HSET', of(session, 'q'), whole(place), entry)
  if owner == own then return place end
  if owner then hint(owner, session, place, entry) end
  return 0
end

while at <= #ARGV do
  local message, receivers, sender, epoch, id, will = take(), tonumber(take()), take(), take(), take(), take()
  local fenced = id ~= '' and call('HGET', of(sender, 's'), 'epoch') ~= epoch
  if will ~= '' then call('HDEL', prefix .. 'wills:' .. own, will) end
  answers[#answers + 1] = fenced and 0 or 1
  for _ = 1, receivers do
    local session, head = take(), take()
    answers[#answers + 1] = fenced and 0 or enqueue(session, head .. message)
  end
  if id ~= '' and not fenced and id ~= '0' then call('SADD', of(sender, 'i'), id) end
end

for owner, entries in pairs(hints) do
  local count = call('INCR', prefix .. 'hints:' .. owner)
  call('EXPIRE', prefix .. 'hints:' .. owner, 86400)
  call('PUBLISH', prefix .. 'in:' .. owner, 'H' .. struct.pack('>I8', count) .. table.concat(entries))
end
return { 'first', dropped, answers }

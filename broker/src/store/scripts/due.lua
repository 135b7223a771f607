-- Sessions that end, and wills whose delay has passed: each is dealt with by the one node that asks first.
-- ARGV … how many at most
-- Answers how many sessions ended, and the wills that this node owes now.
local time = call('TIME')
local now = time[1] + time[2] / 1000000
local ended, wills = 0, {}
for _, session in ipairs(call('ZRANGEBYSCORE', prefix .. 'agenda', '-inf', now, 'LIMIT', 0, ARGV[3])) do
  if budget <= 0 then break end
  local info = call('HMGET', of(session, 's'), 'client', 'expiry', 'parted', 'node')
  if not info[1] or info[4] or not info[3] then
    call('ZREM', prefix .. 'agenda', session)
  else
    local client = client_of(session, info[1])
    local stored = call('HMGET', client, 'session', 'epoch', 'will')
    local is_its = stored[1] == session
    local ends = info[3] + info[2]
    if is_its and stored[3] then
      wills[#wills + 1] = owe(stored[2], stored[3])
      call('HDEL', client, 'will')
    end
    if now >= ends then
      close(session)
      ended = ended + 1
      if is_its then call('DEL', client) end
    else
      call('ZADD', prefix .. 'agenda', ends, session)
    end
  end
end
return { ended, wills }

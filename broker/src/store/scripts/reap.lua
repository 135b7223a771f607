-- A node whose lease is gone: survivors take out its routes, then its clients in slices, each slice by one of them.
-- ARGV … the dead node, how many clients at most
-- Answers whether there is more, and the wills that this node owes now.
local dead, most = ARGV[3], ARGV[4]
if call('EXISTS', prefix .. 'n:' .. dead) == 1 then return { 0, {} } end
if call('SMOVE', prefix .. 'nodes', prefix .. 'dying', dead) == 1 then
  call('DEL', prefix .. 'routes:' .. dead)
  local version = call('INCR', prefix .. 'routes:version')
  call('XADD', prefix .. 'routes:log', 'MAXLEN', '~', '100000', version .. '-1', 'n', dead, 'o', 'x', 'f', '')
end
if call('SISMEMBER', prefix .. 'dying', dead) == 0 then return { 0, {} } end
local wills = {}
for _ = 1, most do
  local tagged = budget > 0 and call('SPOP', prefix .. 'on:' .. dead)
  if not tagged then break end
  local tag, id = string.match(tagged, '^(%d+):(.*)$')
  local client = prefix .. '{s' .. tag .. '}:client:' .. id
  local stored = call('HMGET', client, 'node', 'epoch', 'session', 'will')
  if stored[1] == dead then
    local session, will = stored[3], stored[4]
    local expiry = session and tonumber(call('HGET', of(session, 's'), 'expiry') or '0') or 0
    local delay = will and delay_of(will) or expiry
    if will and (delay == 0 or expiry == 0) then
      wills[#wills + 1] = owe(stored[2], will)
      call('HDEL', client, 'will')
      delay = expiry
    end
    if expiry > 0 then
      call('HDEL', client, 'node')
      part(session, expiry, delay)
    else
      if session then close(session) end
      call('DEL', client)
    end
  end
end
-- What it owed itself.
local owed = call('HGETALL', prefix .. 'wills:' .. dead)
for i = 1, #owed, 2 do
  call('HSET', prefix .. 'wills:' .. own, owed[i], owed[i + 1])
  wills[#wills + 1] = { owed[i], owed[i + 1] }
end
call('DEL', prefix .. 'wills:' .. dead)
if call('EXISTS', prefix .. 'on:' .. dead) == 1 then return { 1, wills } end
call('SREM', prefix .. 'dying', dead)
-- The numbers of its batches stay until they expire: it may only have been cut off, and send its last ones again.
call('DEL', prefix .. 'hints:' .. dead)
return { 0, wills }

-- What all scripts about sessions share; it stands in front of each. ARGV[1] is the prefix, ARGV[2] the node that asks.
local prefix, own = ARGV[1], ARGV[2]
local call = redis.call

-- A key of a session: its number tells its hash tag.
local function of(session, kind)
  return prefix .. '{s' .. string.format('%d', session % 1024) .. '}:' .. kind .. ':' .. session
end

-- A client's key has the tag of its session.
local function client_of(session, id)
  return prefix .. '{s' .. string.format('%d', session % 1024) .. '}:client:' .. id
end

local function whole(number) return string.format('%.0f', number) end

-- The other nodes follow this log to know which sessions want what.
local function log(session, operation, filter, terms)
  local version = call('INCR', prefix .. 'subs:version')
  call('XADD', prefix .. 'subs:log', 'MAXLEN', '~', '100000', version .. '-1',
    's', session, 'o', operation, 'f', filter, 't', terms)
end

-- Filters that one call may take out, and those of one session more: Redis does nothing else meanwhile.
local budget = 10000

-- A session is over, and everything of it goes.
local function close(session)
  local filters = call('HKEYS', of(session, 'f'))
  for _, filter in ipairs(filters) do log(session, '-', filter, '') end
  budget = budget - #filters
  call('UNLINK', of(session, 's'), of(session, 'f'), of(session, 'q'), of(session, 'r'), of(session, 'i'))
  call('SREM', prefix .. 'sessions', session)
  call('ZREM', prefix .. 'agenda', session)
end

-- Nobody is connected to a session any more: when to look at it next, in seconds.
local function part(session, expiry, look)
  local time = call('TIME')
  call('HSET', of(session, 's'), 'expiry', expiry, 'parted', time[1] .. '.' .. string.format('%06d', time[2]))
  call('HDEL', of(session, 's'), 'node')
  call('ZADD', prefix .. 'agenda', time[1] + time[2] / 1000000 + math.min(look, expiry), session)
end

-- A will that is due: this node owes its publishing, and while it does not, whoever takes over what it leaves.
local function owe(epoch, will)
  local message = string.sub(will, 5)
  call('HSET', prefix .. 'wills:' .. own, epoch, message)
  return { epoch, message }
end

local function delay_of(will) return (struct.unpack('>I4', will)) end

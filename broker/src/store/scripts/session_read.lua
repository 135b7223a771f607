-- A part of a session's queue, in order: from a place on, so many places or so many bytes at most.
-- ARGV … session, first place, places, bytes
-- Answers the place to go on from, the first place that is not given yet, and then pairs of places and entries.
local session, from, most, bytes = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local info = call('HMGET', of(session, 's'), 'next', 'head')
if not info[1] then return {} end
local upto = tonumber(info[1])
from = math.max(from, tonumber(info[2]))
local found, size = {}, 0
local looks = 20000
while from < upto and #found < 2 * most and looks > 0 and size < bytes do
  local entry = call('HGET', of(session, 'q'), whole(from))
  if entry then
    found[#found + 1] = whole(from)
    found[#found + 1] = entry
    size = size + #entry
  end
  from = from + 1
  looks = looks - 1
end
return { whole(from), whole(upto), found }

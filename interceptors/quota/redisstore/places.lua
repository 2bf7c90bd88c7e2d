-- How many streams of an account one replica has open, or wants (quota.Store).
-- KEYS[1]  hash from replica to "places until", the time in milliseconds
-- ARGV     now in milliseconds, or 0 for this server's clock; replica; places; the
--          most of all replicas; how long they are believed, in milliseconds
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local me, places, most, believed = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local others, mine = 0, 0
local h = redis.call('HGETALL', KEYS[1])
for i = 1, #h, 2 do
  local n, till = string.match(h[i + 1], '^(%d+) (%d+)$')
  if h[i] == me then
    mine = tonumber(n)
  elseif tonumber(till) <= now or tonumber(till) > now + 2 * believed then
    redis.call('HDEL', KEYS[1], h[i])
  else
    others = others + tonumber(n)
  end
end
local taken = 1
if places > mine and others + places > most then
  taken, places = 0, mine
end
if places == 0 then
  redis.call('HDEL', KEYS[1], me)
else
  redis.call('HSET', KEYS[1], me, string.format('%d %.0f', places, now + believed))
  redis.call('PEXPIRE', KEYS[1], believed)
end
return taken

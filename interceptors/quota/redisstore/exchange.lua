-- One exchange with one account (quota.Exchange). All of it happens or nothing.
-- KEYS[1]  hash of the account: at, the time in microseconds that its tokens are
--          counted for; 1 and 2, tokens of requests and rows; day and month, the
--          periods that are counted; 3 to 8, what was used in them.
-- ARGV     now in microseconds, or 0 for this server's clock; rate and burst of
--          requests and of rows; six budgets, 0 for none; share; how long what is
--          taken may come back, in milliseconds; the periods of what is returned;
--          then eight amounts each: returned, needed, wanted.
local now = tonumber(ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local rate = {tonumber(ARGV[2]) / 1000000, tonumber(ARGV[4]) / 1000000}
local most = {tonumber(ARGV[3]), tonumber(ARGV[5])}
for k = 3, 8 do most[k] = tonumber(ARGV[3 + k]) end
local share, keep = tonumber(ARGV[12]), tonumber(ARGV[13])
local function amount(group, k) return tonumber(ARGV[15 + 8 * group + k]) end

-- Periods by UTC: days since 1970, and months since the year 0, with their ends.
local function month_of(days)
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  return (yoe + era * 400) * 12 + mp + 2 -- March is the month 2 of the year that it begins in
end
local function first_day(month)
  local y, m = math.floor((month - 2) / 12), (month - 2) % 12
  local era = math.floor(y / 400)
  local yoe = y - era * 400
  local doy = math.floor((153 * m + 2) / 5)
  return era * 146097 + yoe * 365 + math.floor(yoe / 4) - math.floor(yoe / 100) + doy - 719468
end
local day = math.floor(now / 86400000000)
local month = month_of(day)
local ends = {(day + 1) * 86400000000 - now, first_day(month + 1) * 86400000000 - now}

local h = redis.call('HMGET', KEYS[1], 'at', 'day', 'month', '1', '2', '3', '4', '5', '6', '7', '8')
local at = tonumber(h[1])
local v = {}
for k = 1, 8 do v[k] = tonumber(h[3 + k]) end

-- Buckets. A clock that steps back gives nothing, and what it has counted it does
-- not count again; after a step of more than a minute it counts from the new time,
-- so that nobody waits until it is where it was.
local passed = 0
if at then
  passed = now - at
  if passed < 0 then
    if passed < -60000000 then at = now end
    passed = 0
  else
    at = now
  end
else
  at = now
end
for k = 1, 2 do
  v[k] = math.min(most[k], (v[k] or most[k]) + rate[k] * passed)
end

-- Budgets. A new period begins with nothing used; a step back into the one before
-- keeps what was used.
local known = {tonumber(h[2]), tonumber(h[3])}
local is = {day, month}
for p = 1, 2 do
  local new = known[p] and is[p] > known[p]
  local of = tonumber(ARGV[13 + p])
  for k = 3 * p, 3 * p + 2 do
    local used = v[k] or 0
    if new then used = 0 end
    if of == 0 or of == is[p] then
      used = math.max(0, used - amount(0, k))
    end
    v[k] = used
  end
end
for k = 1, 2 do v[k] = math.min(most[k], v[k] + amount(0, k)) end

-- What is needed, all of it or nothing.
local function left(k)
  if k <= 2 then return v[k] end
  return most[k] - v[k]
end
local pass = 1
for k = 1, 8 do
  local n = amount(1, k)
  if n > 0 and (k <= 2 or most[k] > 0) and left(k) < n then pass = 0 end
end
local taken = {0, 0, 0, 0, 0, 0, 0, 0}
if pass == 1 then
  for k = 1, 8 do
    local n = amount(1, k)
    local rest = math.floor(left(k) - n)
    if k > 2 then rest = math.floor(share * rest) end
    if k <= 2 or most[k] > 0 then
      taken[k] = math.max(0, math.min(amount(2, k), rest))
    end
    if k <= 2 then
      v[k] = v[k] - n - taken[k]
    else
      v[k] = v[k] + n + taken[k]
    end
  end
end

-- An account that is as good as new need not be kept.
local ttl = 0
for k = 1, 2 do
  if rate[k] > 0 then ttl = math.max(ttl, (most[k] - v[k]) / rate[k]) end
  if rate[k] == 0 and v[k] < most[k] then ttl = 3e14 end
end
for k = 3, 8 do
  if v[k] > 0 then ttl = math.max(ttl, ends[k <= 5 and 1 or 2]) end
end
ttl = math.min(ttl / 1000 + keep + 60000, 3e11)
local function exact(x) return string.format('%.17g', x) end
redis.call('HSET', KEYS[1], 'at', exact(at), 'day', day, 'month', month,
  '1', exact(v[1]), '2', exact(v[2]), '3', exact(v[3]), '4', exact(v[4]),
  '5', exact(v[5]), '6', exact(v[6]), '7', exact(v[7]), '8', exact(v[8]))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ttl))

local answer = {pass, day, month, string.format('%.0f', ends[1]), string.format('%.0f', ends[2])}
for k = 1, 8 do answer[5 + k] = taken[k] end
for k = 1, 8 do
  answer[13 + k] = '0'
  if k <= 2 or most[k] > 0 then answer[13 + k] = exact(left(k)) end
end
return answer

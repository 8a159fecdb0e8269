-- Take messages, each with a token, a lease and the claim on its task.
--
-- KEYS: the lists of all queues, the first lane's first, each queue has one for every priority; and what else may
--       bring work, to be told of it.
-- ARGV: owner, lease (ms), wanted, queues in each lane with the lists a queue has at the end (JSON), spare,
--       deliveries a task may have without an outcome, suspects in flight here, most deaths among them, suspects
--       a worker may have in flight that nobody died of.
-- Returns {now, when the next delayed one is due or 0, 1 if there are more to take,
--          {{token, id, queue, message, mark, deaths, tries, first}…}};
-- mark is '' to run it, 'done' where it has an outcome, 'dead' where it had too many deliveries.
local owner, lease, wanted = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local queues, spare, most = cjson.decode(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local suspects, worst, breadth = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local now = now_ms()
local taken = {}
-- By the clock, so that none is used again where Redis came back with what it knew some time ago.
local last_token = math.max(now * 1000, tonumber(redis.call('GET', 'kc:token') or 0))

-- Seconds since 1970 of an ISO 8601 time, as Celery writes `eta`; nil where it is something else.
local function parse_time(text)
  local form = '^(%d%d%d%d)-(%d%d)-(%d%d)[T ](%d%d):(%d%d):(%d%d%.?%d*)(.*)$'
  local y, m, d, h, min, s, rest = string.match(text, form)
  if not y then return nil end
  local sign, oh, om = string.match(rest, '^([+-])(%d%d):?(%d%d)$')
  if rest ~= '' and rest ~= 'Z' and not sign then return nil end
  y, m, d = tonumber(y), tonumber(m), tonumber(d)
  if m < 1 or m > 12 or d < 1 or d > 31 then return nil end
  if m <= 2 then y = y - 1 end  -- days from the civil calendar, years beginning in March
  local era = math.floor(y / 400)
  local of_era = y - era * 400
  local of_year = math.floor((153 * ((m + 9) % 12) + 2) / 5) + d - 1
  local days = era * 146097 + of_era * 365 + math.floor(of_era / 4) - math.floor(of_era / 100) + of_year - 719468
  local offset = sign and (tonumber(oh) * 3600 + tonumber(om) * 60) * (sign == '-' and -1 or 1) or 0
  return days * 86400 + tonumber(h) * 3600 + tonumber(min) * 60 + tonumber(s) - offset
end

local function hand_out(queue, raw, tried)
  local ok, message = pcall(cjson.decode, raw)
  if not ok then  -- it minds half a surrogate pair, which Python does not
    local without = string.gsub(string.gsub(raw, '\\\\', '/'), '\\u[dD][89a-fA-F]%x%x', '?')
    ok, message = pcall(cjson.decode, without)
  end
  if not ok or type(message) ~= 'table' or type(message.properties) ~= 'table' then
    bury('not-a-task-' .. string.sub(redis.sha1hex(raw), 1, 12), queue, raw, 'It is not a Celery message.', now)
    return
  end
  local headers = type(message.headers) == 'table' and message.headers or {}
  local id = headers.id or message.properties.correlation_id
  if type(id) ~= 'string' then id = 'unnamed-' .. string.sub(redis.sha1hex(raw), 1, 12) end
  local mark = ''
  if outcome(id) then
    if type(headers.group) ~= 'string' then
      redis.call('HDEL', 'kc:history', id)
      return let_copies_go(id)
    end
    mark = 'done'  -- its chord may not have been told
  end
  if mark == '' and type(headers.eta) == 'string' then
    local due = parse_time(headers.eta)
    if due and due * 1000 > now then return delay(id, queue, raw, due * 1000) end
  end
  if redis.call('HEXISTS', 'kc:run', id) == 1 then
    return redis.call('LPUSH', 'kc:copies:' .. id, cjson.encode({queue, raw}))
  end
  local history = redis.call('HEXISTS', 'kc:history', id) == 1 and history_of(id) or {deaths = 0, tries = 0}
  if history.deaths > 0 and not tried then return put_with_suspects(history.deaths, queue, raw) end
  if mark == '' and history.deaths >= most then mark = 'dead' end
  local first = history.first or now
  last_token = last_token + 1
  local token = number(last_token)
  redis.call('HSET', 'kc:held', token, raw)
  redis.call('HSET', 'kc:held:info', token, cjson.encode({id, queue, owner, first}))
  redis.call('ZADD', 'kc:lease', number(now + lease), token)
  redis.call('HSET', 'kc:run', id, token)
  wanted = wanted - 1
  table.insert(taken, {token, id, queue, raw, mark, history.deaths, history.tries, number(first)})
end

-- What has become due goes to the front of its queue, what was due first to the very front.
local due_names = redis.call('ZRANGEBYSCORE', 'kc:delayed', '-inf', number(now), 'LIMIT', 0, 200)
for i = #due_names, 1, -1 do
  local name = due_names[i]
  redis.call('ZREM', 'kc:delayed', name)
  local queue, raw = unpack(cjson.decode(redis.call('HGET', 'kc:delayed:messages', name)))
  redis.call('HDEL', 'kc:delayed:messages', name)
  redis.call('RPUSH', queue, raw)
end

-- Messages whose worker died are tried among ever fewer of their kind, and before its last death one is alone: what
-- kills is found out, and the others are not taken down with it. A first death is nobody's fault yet.
local steps = math.min(3, math.max(1, most - 2))
local function room(deaths)
  return most <= 2 and 1 or math.max(1, math.floor(breadth ^ (1 - (deaths - 1) / steps)))
end

local ours, more = {}, 0
for _, list in ipairs(KEYS) do ours[list] = true end
for deaths = 1, suspect_lists do
  local list = 'kc:suspects:' .. deaths
  local foreign = 0
  while wanted > 0 and foreign < 100 do
    if suspects >= room(math.max(deaths, worst)) then
      if redis.call('EXISTS', list) == 1 then more = 1 end
      break
    end
    local found = redis.call('RPOP', list)
    if not found then break end
    local queue, raw = unpack(cjson.decode(found))
    if ours[queue] then
      local before = wanted
      hand_out(queue, raw, true)
      if wanted < before then suspects, worst = suspects + 1, math.max(worst, deaths) end
    else
      foreign = foreign + 1
      redis.call('LPUSH', list, found)
    end
  end
end

-- The first lane first; every fourth time one of the others in turn. The last lane leaves `spare` places free.
local lists = table.remove(queues)
local first_of, before = {}, 0
for lane, count in ipairs(queues) do first_of[lane], before = before, before + count end
-- How often there was a choice of lanes, and then how often each lane was taken from.
local turns = cjson.decode(redis.call('GET', 'kc:turn') or '[]')
for i = #turns, #queues do turns[i + 1] = 0 end
local empty = {}

local function take(lane)
  if lane == #queues and lane > 1 and wanted <= spare then
    more = 1
    return false
  end
  for step = 0, queues[lane] - 1 do
    local queue = first_of[lane] + (turns[lane + 1] + step) % queues[lane]
    for list = queue * lists + 1, (queue + 1) * lists do
      local raw = not empty[list] and redis.call('RPOP', KEYS[list])
      if raw then
        turns[lane + 1] = (turns[lane + 1] + 1) % 1000000
        hand_out(KEYS[list], raw)
        return true
      end
      empty[list] = true
    end
  end
  return false
end

local looked, found = 0, true
while wanted > 0 and found and looked < 1000 do
  looked, turns[1], found = looked + 1, (turns[1] + 1) % 1000000, false
  local favoured = 1
  if #queues > 1 and turns[1] % 4 == 0 then favoured = 2 + (turns[1] / 4) % (#queues - 1) end
  found = take(favoured)
  for lane = 1, #queues do
    if found then break end
    if lane ~= favoured then found = take(lane) end
  end
end
if found then more = 1 end
if looked > 1 or found then redis.call('SET', 'kc:turn', cjson.encode(turns), 'EX', 604800) end
if #taken > 0 then redis.call('SET', 'kc:token', number(last_token), 'EX', 604800) end

-- A caller that tracks keys (CLIENT TRACKING) is told when one of KEYS changes from now on.
-- Redis before 7.2 remembers what the script declares once it reads any of it, later ones what it reads.
if wanted > 0 then redis.call('EXISTS', unpack(KEYS)) end
local next_due = redis.call('ZRANGE', 'kc:delayed', 0, 0, 'WITHSCORES')[2] or '0'
if found and wanted > 0 then next_due = number(now) end  -- it looked at enough for once: come again at once
return {number(now), next_due, more, taken}

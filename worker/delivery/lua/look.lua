-- How much work there is, and where.
--
-- ARGV: what the lists of a queue end with (JSON), seconds a head is remembered, queues; those that live workers
--       consume are looked at too.
-- Returns {now, {{queue, waiting, since}…}, held, delayed, suspects, dead, {{owner, report}…}}. `since` (ms) is when
-- the message at the head was sent, or was first seen there where it does not say; 0 where none waits.
--
--   kc:heads   list -> fingerprint of the message at its head, and since when (ms)
local suffixes, ttl = cjson.decode(ARGV[1]), ARGV[2]
local now = now_ms()

local function since_of(list)
  local raw = redis.call('LINDEX', list, -1)
  if not raw then
    redis.call('HDEL', 'kc:heads', list)
    return nil
  end
  local print = redis.sha1hex(raw)
  local seen = redis.call('HGET', 'kc:heads', list)
  if seen and string.sub(seen, 1, 40) == print then return tonumber(string.sub(seen, 42)) end
  local ok, message = pcall(cjson.decode, raw)
  local headers = ok and type(message) == 'table' and message.headers
  local sent_at = type(headers) == 'table' and headers.sent_at
  local since = now
  if type(sent_at) == 'number' and sent_at > 0 then since = math.min(now, sent_at * 1000) end
  redis.call('HSET', 'kc:heads', list, print .. ' ' .. number(since))
  return since
end

local queues, known, workers = {}, {}, {}
local function add(queue)
  if known[queue] then return end
  known[queue] = true
  local waiting, oldest = 0, 0
  for _, suffix in ipairs(suffixes) do
    waiting = waiting + redis.call('LLEN', queue .. suffix)
    local since = since_of(queue .. suffix)
    if since and (oldest == 0 or since < oldest) then oldest = since end
  end
  table.insert(queues, {queue, waiting, number(oldest)})
end

for i = 3, #ARGV do add(ARGV[i]) end
local reports = redis.call('HGETALL', 'kc:workers')
for i = 1, #reports, 2 do
  local worker = cjson.decode(reports[i + 1])
  if worker.until_ms >= now then
    table.insert(workers, {reports[i], worker.report})
    for _, queue in ipairs(cjson.decode(worker.report).queues or {}) do add(queue) end
  end
end
redis.call('EXPIRE', 'kc:heads', ttl)

local suspects = 0
for deaths = 1, 100 do suspects = suspects + redis.call('LLEN', 'kc:suspects:' .. deaths) end
return {
  number(now), queues, redis.call('HLEN', 'kc:held'), redis.call('ZCARD', 'kc:delayed'), suspects,
  redis.call('ZCARD', 'kc:dead'), workers,
}

-- Shared by every script. A delivery is one message in the hands of one worker, known by its token.
--
--   kc:held        token -> the message as it was taken
--   kc:held:info   token -> {id, queue, owner, first}: task id, list it came from, worker, first taken at (ms)
--   kc:lease       token -> when its lease ends (ms)
--   kc:run         task id -> token of its one live delivery
--   kc:copies:ID   other messages of a task that has a live delivery: they wait for its outcome
--   kc:history     task id -> {first, deaths, tries, notes}; only of tasks to which something happened
--   kc:suspects:N  messages whose worker died N times; in the last list, so often or more
--   kc:delayed     name -> when it is due (ms);  kc:delayed:messages  name -> {queue, raw, id}
--   kc:stream:ID   what a task has said so far: entries of type chunk, then one of type done or error
--   kc:owner:ID    whose a task is that came by the gateway, and what was sent;  kc:open:OWNER  those not over
--   kc:ended:BATCH ids of a batch's tasks that have ended, until it has heard of them
--   kc:rate:OWNER  when the owner's requests and tokens of the last minute will be made up for (ms)
--   kc:dead        task id -> since when (ms);   kc:dead:entries      task id -> what is known
--
-- All times are milliseconds by the clock of Redis: those of the workers do not matter.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whatever number of deliveries a worker allows, it looks at all of these lists.
local suspect_lists = 4

local function number(value) return string.format('%.0f', value) end

-- The outcome stored for a task, nil while there is none. Celery writes the status first.
local function outcome(id)
  local head = redis.call('GETRANGE', 'celery-task-meta-' .. id, 0, 31)
  local status = string.match(head, '^{"status": ?"(%u+)"')
  if status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED' then return status end
end

-- Why a task did not succeed, as it is stored.
local function reason_in(value)
  local ok, meta = pcall(cjson.decode, value)
  if not ok or type(meta.result) ~= 'table' then return 'The task failed.' end
  local said = meta.result.exc_message
  if type(said) == 'table' then said = said[1] end
  return tostring(meta.result.exc_type) .. ': ' .. tostring(said)
end

-- Store the outcome of a task, or another state of it, and tell who waits. A stream of it ends with its outcome.
local function store(id, ttl, value)
  local stream = 'kc:stream:' .. id
  redis.call('SETEX', 'celery-task-meta-' .. id, ttl, value)
  redis.call('PUBLISH', 'celery-task-meta-' .. id, value)
  local known = redis.call('GET', 'kc:owner:' .. id)
  if not known and redis.call('EXISTS', stream) == 0 then return end
  local status = outcome(id)
  if not status then return end
  if known then
    redis.call('EXPIRE', 'kc:owner:' .. id, ttl)
    known = cjson.decode(known)
    redis.call('SREM', 'kc:open:' .. known.owner, id)
    if known.batch then
      redis.call('RPUSH', 'kc:ended:' .. known.batch, id)
      redis.call('EXPIRE', 'kc:ended:' .. known.batch, ttl)
    end
  end
  if redis.call('EXISTS', stream) == 0 then return end
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1][2]
  local seq = 0
  for i = 1, #last, 2 do
    if last[i] == 'seq' then seq = last[i + 1] + 1 end
  end
  local how, text = 'error', 'Cancelled.'
  if status == 'SUCCESS' then how, text = 'done', '' end
  if status == 'FAILURE' then text = reason_in(value) end
  redis.call('XADD', stream, '*', 'type', how, 'text', text, 'seq', number(seq))
  redis.call('PUBLISH', stream, how)
end

local function history_of(id)
  local stored = redis.call('HGET', 'kc:history', id)
  return stored and cjson.decode(stored) or {deaths = 0, tries = 0, notes = {}}
end

-- Add a line to a task's history; the oldest go where there are too many.
local function note(id, first, changes, line)
  local history = history_of(id)
  history.first = history.first or first
  for name, by in pairs(changes) do history[name] = (history[name] or 0) + by end
  if line then
    if #history.notes >= 20 then table.remove(history.notes, 1) end
    table.insert(history.notes, line)
  end
  redis.call('HSET', 'kc:history', id, cjson.encode(history))
  return history
end

-- End a delivery: nothing of it is left but what is returned, {id, queue, owner, first} and the message.
local function let_go(token)
  local stored = redis.call('HGET', 'kc:held:info', token)
  if not stored then return nil end
  local info = cjson.decode(stored)
  local raw = redis.call('HGET', 'kc:held', token)
  redis.call('ZREM', 'kc:lease', token)
  redis.call('HDEL', 'kc:held', token)
  redis.call('HDEL', 'kc:held:info', token)
  if redis.call('HGET', 'kc:run', info[1]) == token then redis.call('HDEL', 'kc:run', info[1]) end
  return info, raw
end

-- What waited for the outcome of a task: given way where there is one, else put in its queue again.
local function let_copies_go(id)
  local copies = 'kc:copies:' .. id
  if redis.call('EXISTS', copies) == 0 then return end
  local waiting = redis.call('LRANGE', copies, 0, -1)
  redis.call('DEL', copies)
  if outcome(id) then return end
  for _, copy in ipairs(waiting) do
    local queue, raw = unpack(cjson.decode(copy))
    redis.call('RPUSH', queue, raw)
  end
end

-- Keep a message until it is due. Its name is the task's id, by which it can be cancelled.
local function delay(id, queue, raw, due)
  local name = id
  while redis.call('ZSCORE', 'kc:delayed', name) do name = name .. '+' end
  redis.call('ZADD', 'kc:delayed', number(due), name)
  redis.call('HSET', 'kc:delayed:messages', name, cjson.encode({queue, raw, id}))
end

local function put_with_suspects(deaths, queue, raw)
  redis.call('LPUSH', 'kc:suspects:' .. math.min(deaths, suspect_lists), cjson.encode({queue, raw}))
end

-- A delivery that ended without an outcome: its message is under suspicion of what ended it.
local function suspect(info, raw, line)
  put_with_suspects(note(info[1], info[4], {deaths = 1}, line).deaths, info[2], raw)
end

local function bury(id, queue, raw, reason, since)
  local history = history_of(id)
  redis.call('HDEL', 'kc:history', id)
  redis.call('DEL', 'kc:copies:' .. id)
  redis.call('ZADD', 'kc:dead', number(since), id)
  redis.call('HSET', 'kc:dead:entries', id, cjson.encode({
    queue = queue, raw = raw, reason = reason, since = since,
    deaths = history.deaths, tries = history.tries, notes = history.notes,
  }))
end

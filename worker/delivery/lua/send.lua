-- Put a task in a queue, unless there is too much already.
--
-- KEYS: the lists of the queue, the one it goes to first.
-- ARGV: task id, message, most that may wait in the queue (0: any number), whose it is (''  nobody's),
--       what is to be known of it (JSON), seconds that is kept, the owner's limits: tasks in flight, requests a
--       minute, tokens a minute (0: none), tokens of this one.
-- Returns {'sent', requests left, tokens left} (-1: no limit), or {'queue' | 'in_flight' | 'requests' | 'tokens', ms}:
-- what there is too much of, and when it is worth trying again (0: nobody knows).
local id, message, most, owner, known, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local in_flight, now = tonumber(ARGV[7]), now_ms()
local minute = 60000

if most > 0 then
  local waiting = 0
  for _, list in ipairs(KEYS) do waiting = waiting + redis.call('LLEN', list) end
  if waiting >= most then return {'queue', 0} end
end

-- The generic cell rate algorithm (ITU-T I.371): when a bucket that leaks steadily would be empty, at most a minute
-- from now.
local rate = 'kc:rate:' .. owner
local function cell(name, limit, cost)
  if limit == 0 then return nil, -1, 0 end
  local empty_at = math.max(now, tonumber(redis.call('HGET', rate, name) or 0))
  local then_at = empty_at + math.min(cost, limit) * minute / limit
  local wait = then_at - now - minute
  return then_at, math.floor((minute - (then_at - now)) * limit / minute), wait
end

local left = {-1, -1}
if owner ~= '' then
  local open = 'kc:open:' .. owner
  if in_flight > 0 and redis.call('SCARD', open) >= in_flight then
    for _, one in ipairs(redis.call('SMEMBERS', open)) do  -- somebody may have emptied the queue
      if outcome(one) or redis.call('EXISTS', 'kc:owner:' .. one) == 0 then redis.call('SREM', open, one) end
    end
    if redis.call('SCARD', open) >= in_flight then return {'in_flight', 0} end
  end
  local requests_at, requests_left, requests_wait = cell('requests', tonumber(ARGV[8]), 1)
  local tokens_at, tokens_left, tokens_wait = cell('tokens', tonumber(ARGV[9]), tonumber(ARGV[10]))
  if requests_wait > 0 then return {'requests', math.ceil(requests_wait)} end
  if tokens_wait > 0 then return {'tokens', math.ceil(tokens_wait)} end
  if requests_at then redis.call('HSET', rate, 'requests', number(requests_at)) end
  if tokens_at then redis.call('HSET', rate, 'tokens', number(tokens_at)) end
  if requests_at or tokens_at then redis.call('PEXPIRE', rate, minute) end
  left = {requests_left, tokens_left}
  redis.call('SADD', open, id)
  redis.call('SET', 'kc:owner:' .. id, known, 'EX', ttl)
end
redis.call('LPUSH', KEYS[1], message)
return {'sent', left[1], left[2]}

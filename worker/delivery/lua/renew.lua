-- Renew the leases of what a worker holds, and take down what it reports of itself.
--
-- ARGV: owner, lease (ms), report (JSON), how long it holds (ms), tokens.
-- Returns the tokens that are no longer this worker's to run: taken over, or the task has its outcome (cancelled).
local lease = tonumber(ARGV[2])
local now = now_ms()
local lost = {}
for i = 5, #ARGV do
  local token = ARGV[i]
  local info = redis.call('HGET', 'kc:held:info', token)
  if not info then
    table.insert(lost, token)
  else
    redis.call('ZADD', 'kc:lease', 'XX', number(now + lease), token)
    if outcome(cjson.decode(info)[1]) then table.insert(lost, token) end
  end
end
redis.call('HSET', 'kc:workers', ARGV[1], cjson.encode({until_ms = now + tonumber(ARGV[4]), report = ARGV[3]}))
return lost

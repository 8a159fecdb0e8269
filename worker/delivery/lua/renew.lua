-- Renew the leases of what a worker holds, and take down what it reports of itself.
--
-- ARGV: owner, lease (ms), report (JSON), how long it holds (ms), tokens.
-- Returns {the tokens it no longer holds: others took them over, the tokens whose tasks are cancelled}.
local lease = tonumber(ARGV[2])
local now = now_ms()
local lost, cancelled = {}, {}
for i = 5, #ARGV do
  local token = ARGV[i]
  local info = redis.call('HGET', 'kc:held:info', token)
  if not info then
    table.insert(lost, token)
  else
    redis.call('ZADD', 'kc:lease', 'XX', number(now + lease), token)
    if outcome(cjson.decode(info)[1]) == 'REVOKED' then table.insert(cancelled, token) end
  end
end
redis.call('HSET', 'kc:workers', ARGV[1], cjson.encode({until_ms = now + tonumber(ARGV[4]), report = ARGV[3]}))
return {lost, cancelled}

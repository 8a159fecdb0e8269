-- Take back what dead workers held. ARGV: pause that means nobody looked (ms), grace after such a pause (ms), most
-- to take back at once.
--
-- After a pause (Redis was away, or every worker was) leases may have ended without their owners' fault: they
-- get the grace to renew them. Returns how many were taken back.
local now = now_ms()
local pause, grace = tonumber(ARGV[1]), tonumber(ARGV[2])
local swept = redis.call('HMGET', 'kc:sweep', 'at', 'not_before')
local not_before = tonumber(swept[2] or 0)
if not swept[1] or now - tonumber(swept[1]) > pause then not_before = now + grace end
redis.call('HSET', 'kc:sweep', 'at', number(now), 'not_before', number(not_before))
redis.call('EXPIRE', 'kc:sweep', 86400)
local workers = redis.call('HGETALL', 'kc:workers')
for i = 1, #workers, 2 do
  if cjson.decode(workers[i + 1]).until_ms < now then redis.call('HDEL', 'kc:workers', workers[i]) end
end
if now < not_before then return 0 end
local ended = redis.call('ZRANGEBYSCORE', 'kc:lease', '-inf', number(now), 'LIMIT', 0, tonumber(ARGV[3]))
for _, token in ipairs(ended) do
  local info, raw = let_go(token)
  if info then
    suspect(info, raw, cjson.encode({at = now, event = 'worker lost', worker = info[3]}))
  else
    redis.call('ZREM', 'kc:lease', token)
  end
end
return #ended

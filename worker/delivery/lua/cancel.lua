-- Cancel a task wherever it is: its outcome is REVOKED from now on, and who runs it is told to stop.
--
-- KEYS: the result's key. ARGV: value, seconds to live, task id.
-- Returns 'running', 'waiting' (queued, delayed, or not known here), or the outcome it has already.
local id = ARGV[3]
local status = outcome(id)
if status then return status end
store(id, ARGV[2], ARGV[1])
redis.call('PUBLISH', 'kc:cancel', id)
if redis.call('ZSCORE', 'kc:delayed', id) then redis.call('ZADD', 'kc:delayed', 'XX', 0, id) end
return redis.call('HEXISTS', 'kc:run', id) == 1 and 'running' or 'waiting'

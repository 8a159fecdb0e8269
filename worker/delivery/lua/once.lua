-- Who does a piece of work that several tasks are asked for. KEYS: its name.
-- ARGV: task id, what is asked (a hash), seconds the name is kept.
-- Returns {'mine'}: do it, {'wait'}: another task is at it, {'done', outcome}: it is done, {'other'}: the name
-- stands for something else.
local function mine()
  redis.call('SET', KEYS[1], cjson.encode({ARGV[1], ARGV[2]}), 'EX', ARGV[3])
  return {'mine'}
end

local stored = redis.call('GET', KEYS[1])
if not stored then return mine() end
local owner, asked = unpack(cjson.decode(stored))
if asked ~= ARGV[2] then return {'other'} end
if owner == ARGV[1] then return mine() end
local status = outcome(owner)
if status == 'SUCCESS' then return {'done', redis.call('GET', 'celery-task-meta-' .. owner)} end
-- One that waits in a queue may wait behind those who would wait for it.
if status or redis.call('HEXISTS', 'kc:run', owner) == 0 then return mine() end
return {'wait'}

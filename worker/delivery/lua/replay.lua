-- Put a dead letter back in its queue; a second time does nothing. ARGV: task id. Returns 1 if it was dead.
local stored = redis.call('HGET', 'kc:dead:entries', ARGV[1])
if not stored then return 0 end
local entry = cjson.decode(stored)
redis.call('ZREM', 'kc:dead', ARGV[1])
redis.call('HDEL', 'kc:dead:entries', ARGV[1])
redis.call('DEL', 'celery-task-meta-' .. ARGV[1], 'kc:stream:' .. ARGV[1])
redis.call('LPUSH', entry.queue, entry.raw)
return 1

-- What became of tasks is kept elsewhere: here it is only known that they are over, so that no late copy of one
-- runs again. Those whose results others may ask for, by a key or for being the same, keep them.
-- ARGV: seconds that is known, ids of tasks.
for i = 2, #ARGV do
  local id = ARGV[i]
  local known = redis.call('GET', 'kc:owner:' .. id)
  if not (known and cjson.decode(known).shared) and outcome(id) == 'SUCCESS' then
    redis.call('SET', 'celery-task-meta-' .. id, '{"status": "SUCCESS", "result": null}', 'EX', ARGV[1])
  end
  redis.call('DEL', 'kc:owner:' .. id)
end

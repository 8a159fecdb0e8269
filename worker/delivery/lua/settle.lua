-- What became of tasks is kept elsewhere: here it is only known that they are over, so that no late copy of one
-- runs again. ARGV: seconds that is known, ids of tasks.
for i = 2, #ARGV do
  local id = ARGV[i]
  local status = outcome(id)
  if status == 'SUCCESS' then
    redis.call('SET', 'celery-task-meta-' .. id, '{"status": "SUCCESS", "result": null}', 'EX', ARGV[1])
  end
  redis.call('DEL', 'kc:owner:' .. id)
end

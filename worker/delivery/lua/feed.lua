-- Put tasks of a batch in a queue, each once.
--
-- KEYS: the list they go to. ARGV: whether those that are under way go there again ('1', else ''; they are done once
--       all the same), seconds it is known that a task was sent, then of each task: id, message, what is to be known of it (JSON).
-- Returns for each: 1 it was put in the queue, 0 it is under way, 2 it has its outcome.
local again, ttl, answers = ARGV[1] == '1', ARGV[2], {}
for i = 3, #ARGV, 3 do
  local id, message, known = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local answer = 1
  if outcome(id) then
    answer = 2
  elseif not redis.call('SET', 'kc:owner:' .. id, known, 'EX', ttl, 'NX') and not again then
    answer = 0
  else
    redis.call('LPUSH', KEYS[1], message)
  end
  table.insert(answers, answer)
end
return answers

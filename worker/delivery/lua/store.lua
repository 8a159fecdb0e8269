-- Store states of tasks. ARGV: value, seconds to live, task id, token of the delivery or '', and so on.
-- Returns for each: 1 stored, 0 its task has an outcome already, -1 another delivery runs it.
local answers = {}
for i = 1, #ARGV, 4 do
  local value, ttl, id, token = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local answer = 1
  if outcome(id) then
    answer = 0
  elseif token ~= '' and redis.call('HGET', 'kc:run', id) ~= token then
    answer = -1
  else
    store(id, ttl, value)
  end
  table.insert(answers, answer)
end
return answers

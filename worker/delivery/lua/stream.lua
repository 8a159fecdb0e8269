-- Add what tasks have said to their streams. ARGV: task id, token of the delivery, seconds to live, entries
-- (JSON, each an array of fields and values), and so on. Returns for each: 1 added, 0 its task has an outcome
-- already, -1 another delivery runs it.
local answers = {}
for i = 1, #ARGV, 4 do
  local id, token, ttl, entries = ARGV[i], ARGV[i + 1], ARGV[i + 2], cjson.decode(ARGV[i + 3])
  local stream, answer = 'kc:stream:' .. id, 1
  if outcome(id) then
    answer = 0
  elseif redis.call('HGET', 'kc:run', id) ~= token then
    answer = -1
  else
    for _, fields in ipairs(entries) do redis.call('XADD', stream, '*', unpack(fields)) end
    redis.call('EXPIRE', stream, ttl)
    redis.call('PUBLISH', stream, 'chunk')
  end
  table.insert(answers, answer)
end
return answers

-- Put back what this worker was given without hearing of it: the connection broke before the answer came.
-- ARGV: owner, the tokens it knows. Returns how many were put back.
local known = {}
for i = 2, #ARGV do known[ARGV[i]] = true end
local back = 0
local held = redis.call('HGETALL', 'kc:held:info')
for i = 1, #held, 2 do
  local token = held[i]
  if not known[token] and cjson.decode(held[i + 1])[3] == ARGV[1] then
    local info, raw = let_go(token)
    redis.call('RPUSH', info[2], raw)
    back = back + 1
  end
end
return back

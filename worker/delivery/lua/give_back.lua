-- Put messages back. ARGV: line for their history or '', deliveries a task may have without an outcome where this
-- counts as one, 0 where it does not (they go to the front of their queues), tokens. Returns how many were held.
local most = tonumber(ARGV[2])
local back = 0
for i = 3, #ARGV do
  local info, raw = let_go(ARGV[i])
  if info then
    back = back + 1
    if most > 0 then
      suspect(info, raw, ARGV[1], most)
    else
      note(info[1], info[4], {}, ARGV[1] ~= '' and ARGV[1] or nil)
      redis.call('RPUSH', info[2], raw)
    end
  end
end
return back

-- Put messages back. ARGV: line for their history or '', 1 where this counts as a delivery without an outcome,
-- 0 where it does not (they go to the front of their queues), tokens. Returns how many were held.
local back = 0
for i = #ARGV, 3, -1 do  -- what was taken first comes first again
  local info, raw = let_go(ARGV[i])
  if info then
    back = back + 1
    if ARGV[2] == '1' then
      suspect(info, raw, ARGV[1])
    else
      note(info[1], info[4], {}, ARGV[1] ~= '' and ARGV[1] or nil)
      redis.call('RPUSH', info[2], raw)
    end
  end
end
return back

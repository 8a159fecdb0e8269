-- Keep a message as a dead letter; its task's outcome is stored with it. Returns 1, or 0 where it was not held.
-- ARGV: token, reason, the outcome or '', seconds it is kept.
local info, raw = let_go(ARGV[1])
if not info then return 0 end
if ARGV[3] ~= '' and not outcome(info[1]) then store(info[1], ARGV[4], ARGV[3]) end
bury(info[1], info[2], raw, ARGV[2], now_ms())
return 1

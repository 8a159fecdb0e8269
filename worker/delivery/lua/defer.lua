-- Try a task again later. ARGV: token, delay (ms), line for its history. Returns 1, or 0 where it was not held.
local info, raw = let_go(ARGV[1])
if not info then return 0 end
note(info[1], info[4], {tries = 1}, ARGV[3])
local due = outcome(info[1]) and 0 or now_ms() + tonumber(ARGV[2])  -- what is cancelled need not wait
delay(info[1], info[2], raw, due)
return 1

-- Deliveries that are over. ARGV: tokens. Returns how many were still held.
local over = 0
for _, token in ipairs(ARGV) do
  local info = let_go(token)
  if info then
    over = over + 1
    redis.call('HDEL', 'kc:history', info[1])
    let_copies_go(info[1])
  end
end
return over

#!lua
-- Takes, keeps or gives up the right to sample partitions, and reads what was sampled of all of them.
-- KEYS: the holders of all partitions, then their views. ARGV: this edge, milliseconds a right lasts without use, then
-- for each partition 1, or 0 where the edge sits out. Returns this server's time in milliseconds, then for each
-- partition whether the right is this edge's (1), then the views.
local count = #KEYS / 2
local time = redis.call('TIME')
local answer = { time[1] * 1000 + math.floor(time[2] / 1000) }
for i = 1, count do
  local holder = redis.call('GET', KEYS[i])
  local held = 0
  if ARGV[2 + i] == '0' then
    if holder == ARGV[1] then
      redis.call('PEXPIRE', KEYS[i], 0)
    end
  elseif not holder or holder == ARGV[1] then
    redis.call('SET', KEYS[i], ARGV[1], 'PX', ARGV[2])
    held = 1
  end
  answer[1 + i] = held
end
for i = 1, count do
  answer[1 + count + i] = redis.call('GET', KEYS[count + i])
end
return answer

#!lua
-- Writes views of partitions with the time they were taken. A partition that another edge samples by now is left out.
-- KEYS: the holders of those partitions, then their views. ARGV: this edge, milliseconds the views are kept, then for
-- each how many milliseconds ago it was taken, then the views. Returns for each when it was taken by this server's
-- clock, 0 where it was left out.
local count = #KEYS / 2
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {}
for i = 1, count do
  answer[i] = 0
  if redis.call('GET', KEYS[i]) == ARGV[1] then
    local taken = now - ARGV[2 + i]
    redis.call('SET', KEYS[count + i], string.format('%.0f:', taken) .. ARGV[2 + count + i], 'PX', ARGV[2])
    answer[i] = taken
  end
end
return answer

#!lua
-- Keeps hints. KEYS: their names. ARGV: milliseconds they live, then one value for each.
for i = 1, #KEYS do
  redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1])
end

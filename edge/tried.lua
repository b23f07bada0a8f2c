#!lua
-- Notes events that were refused after their admission, so that their next try is known as one (see admit.lua).
-- KEYS[1]: the tries of a tenant. ARGV: milliseconds until they are forgotten, the most fields, then the ids.
local fields = redis.call('HLEN', KEYS[1])
local created = fields == 0
for i = 3, #ARGV do
  if fields < tonumber(ARGV[2]) then
    fields = fields + redis.call('HSETNX', KEYS[1], ARGV[i], 0)
  end
end
if created and fields > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end

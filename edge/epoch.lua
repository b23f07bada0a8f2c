#!lua
-- Begins the epoch of a tenant's nonces on this server's clock, unless it has begun. KEYS[1]: the epoch.
local time = redis.call('TIME')
redis.call('SET', KEYS[1], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), 'NX')

#!lua
-- Probes of a half-open circuit, counted over all edge processes on this server's own clock.
--
-- KEYS[1]  the circuit: phase (probing, open or closed) since when, round, probes given and passed
-- ARGV     'ask', probes in a round, open ms, ms a probe may take, ms since the asker's circuit opened; or
--          'passed', 'failed' or 'unused', the same three, round
--
-- Returns {word, ms, round}: 'probe' (take one, of that round), 'none' (all are given, ask again after ms),
-- 'open' (another ms), 'closed', 'late' (the round is over).

local word, probes, open_ms, probe_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local held = redis.call('HMGET', KEYS[1], 'phase', 'since', 'round', 'given', 'passed')
local phase, since, round = held[1], tonumber(held[2] or 0), held[3]

local function enter(new, keep_ms)
  redis.call('HSET', KEYS[1], 'phase', new, 'since', now)
  redis.call('PEXPIRE', KEYS[1], keep_ms)
end

if word ~= 'ask' then
  if phase ~= 'probing' or round ~= ARGV[5] then
    return {'late', 0, ''}
  end
  if word == 'failed' then
    enter('open', open_ms + probe_ms)
    return {'open', open_ms, ''}
  end
  if word == 'unused' then
    redis.call('HINCRBY', KEYS[1], 'given', -1)
  elseif redis.call('HINCRBY', KEYS[1], 'passed', 1) >= probes then
    enter('closed', open_ms + probe_ms)
    return {'closed', 0, ''}
  end
  return {'probe', 0, round}
end

if phase == 'open' and now < since + open_ms then
  return {'open', since + open_ms - now, ''}
end
if phase == 'closed' and since > now - tonumber(ARGV[5]) then
  return {'closed', 0, ''}
end
if phase == 'probing' and tonumber(held[4]) >= probes then
  return {'none', redis.call('PTTL', KEYS[1]), ''}
end
if phase ~= 'probing' then
  round = time[1] .. '.' .. time[2]
  redis.call('HSET', KEYS[1], 'round', round, 'given', 0, 'passed', 0)
  enter('probing', probe_ms)
end
redis.call('HINCRBY', KEYS[1], 'given', 1)
redis.call('PEXPIRE', KEYS[1], probe_ms) -- probes that never come back must not keep the round for ever
return {'probe', 0, round}

#!lua
-- Admission of many requests in one step: nonce, hints, budget and tries, on this server's own clock.
--
-- ARGV[1]  msgpack: one {ids, rate per second, burst, created_ms or nil} for each request
-- ARGV[2]  milliseconds until the tries of a tenant are forgotten
-- KEYS     for each request in turn: budget (..:rl), budget of duplicates (..:rd), tries (..:t),
--          one hint (..:h:<id>) for each id, and with created_ms: epoch (..:ep), nonce (..:n:<key>:<nonce>)
--
-- Returns the hints found, in order, behind one msgpack of one
-- {refused, places of hints, admitted, admitted duplicates, remaining, retry_after_ms, tries} for each request.

local DUPLICATES_FACTOR = 10
local TRIES_FIELDS_MAX = 1024
local NONCE_MS = 135000 -- the window below, and twice 5 s for clocks
local CREATED_PAST_MS = 120000
local CREATED_FUTURE_MS = 5000
local EPOCH_GUARD_MS = 5000
local RETRY_MS_MIN = 1000
local ROUNDING = 1e-6 -- of an event: what adding and draining fractions may lose
local MS_MAX = 1e12

local CLOSED, REPLAYED = 1, 2

local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = math.floor(now_us / 1000)
local tries_window_ms = ARGV[2]

local function whole(number)
  return string.format('%.0f', number)
end

-- `created` is in whole seconds, so the first signature that the epoch lets pass is of the next whole second.
local function ms_until_guard_ends(epoch_ms)
  return math.max(RETRY_MS_MIN, math.ceil((epoch_ms + EPOCH_GUARD_MS) / 1000) * 1000 - now_ms)
end

-- Why the nonce may not pass and when a new one may, nil when it is new.
local function refusal(epoch_key, nonce_key, created_ms)
  local epoch_ms = redis.call('GET', epoch_key)
  if not epoch_ms then
    epoch_ms = whole(now_ms)
    redis.call('SET', epoch_key, epoch_ms)
  end
  if created_ms < epoch_ms + EPOCH_GUARD_MS
    or created_ms < now_ms - CREATED_PAST_MS
    or created_ms > now_ms + CREATED_FUTURE_MS then
    return CLOSED, ms_until_guard_ends(epoch_ms)
  end
  if redis.call('GET', nonce_key) then
    return REPLAYED, 0
  end
  return nil
end

-- A nonce is taken once something of its request passes. A request refused for its rate had no effect, and to
-- remember it would let one tenant's flood fill the store, which refuses everybody.
local function take(nonce_key)
  redis.call('SET', nonce_key, '1', 'PX', NONCE_MS)
end

-- A budget is a bucket: each event raises its level by one up to the burst, and it drains at the rate.
local buckets = {}

local function bucket_of(key, rate, burst)
  local bucket = buckets[key]
  if not bucket then
    bucket = {level = 0, changed = false}
    local state = redis.call('GET', key)
    if state then
      local level, last_us = struct.unpack('<dd', state)
      -- A clock set back drains nothing, and counts from its new time on.
      bucket.level = math.max(0, level - math.max(0, now_us - last_us) * rate / 1e6)
      bucket.changed = now_us < last_us
    end
    buckets[key] = bucket
  end
  bucket.rate, bucket.burst = rate, burst
  return bucket
end

local function room(bucket)
  return math.max(0, math.floor(bucket.burst - bucket.level + ROUNDING))
end

-- How many of so many events pass.
local function charge(bucket, events)
  local admitted = math.min(events, room(bucket))
  if admitted > 0 then
    bucket.level = bucket.level + admitted
    bucket.changed = true
  end
  return admitted
end

local function ms_until_drained(level, rate)
  return math.min(math.ceil(level * 1000 / rate), MS_MAX)
end

local function save_buckets()
  for key, bucket in pairs(buckets) do
    if bucket.changed then
      local state = struct.pack('<dd', bucket.level, now_us)
      redis.call('SET', key, state, 'PX', whole(ms_until_drained(bucket.level, bucket.rate) + 1))
    end
  end
end

local fields_by_tenant = {}

-- How often each id was offered again. An id is noted when it was hinted or refused for its rate, which bounds
-- what a flood can store; from then on every offer counts.
local function tries_of(key, ids, hints, passes)
  local fields = fields_by_tenant[key] or redis.call('HLEN', key)
  local known = fields > 0 and redis.call('HMGET', key, unpack(ids)) or {}
  local created = fields == 0
  local tries, changes = {}, {}
  for i, id in ipairs(ids) do
    tries[i] = 0
    if known[i] then
      tries[i] = known[i] + 1
    elseif hints[i] then
      tries[i] = 1
    end
    local noted = known[i]
    if not noted and (hints[i] or not passes[i]) and fields < TRIES_FIELDS_MAX then
      noted = true
      fields = fields + 1
    end
    if noted then
      changes[#changes + 1] = id
      changes[#changes + 1] = tries[i]
    end
  end
  if #changes > 0 then
    redis.call('HSET', key, unpack(changes))
    if created then
      redis.call('PEXPIRE', key, tries_window_ms)
    end
  end
  fields_by_tenant[key] = fields
  return tries
end

local reply = {''}

local function admit(first, count, rate, burst)
  local budget_key = KEYS[first]
  local hints, places, ids, passes = {}, {}, {}, {}
  if count > 0 then
    hints = redis.call('MGET', unpack(KEYS, first + 3, first + 2 + count))
  end
  for i = 1, count do
    ids[i] = string.sub(KEYS[first + 2 + i], #budget_key + 1) -- `rl` is as long as `h:`
    if hints[i] then
      places[#places + 1] = i - 1
      reply[#reply + 1] = hints[i]
    end
  end
  local budget = bucket_of(budget_key, rate, burst)
  local fresh = charge(budget, count - #places)
  local duplicates = 0
  if #places > 0 then
    local spare = bucket_of(KEYS[first + 1], rate * DUPLICATES_FACTOR, burst * DUPLICATES_FACTOR)
    duplicates = charge(spare, #places)
  end
  local fresh_left, duplicates_left = fresh, duplicates
  for i = 1, count do
    if hints[i] then
      passes[i] = duplicates_left > 0
      duplicates_left = duplicates_left - 1
    else
      passes[i] = fresh_left > 0
      fresh_left = fresh_left - 1
    end
  end
  local tries = count > 0 and tries_of(KEYS[first + 2], ids, hints, passes) or {}
  local remaining = room(budget)
  local retry_after_ms = 0
  if remaining == 0 then
    retry_after_ms = ms_until_drained(budget.level + 1 - burst, rate)
  end
  return {0, places, fresh, duplicates, remaining, retry_after_ms, tries}
end

local answers = {}
local first = 1
for i, ask in ipairs(cmsgpack.unpack(ARGV[1])) do
  local count, rate, burst, created_ms = ask[1], ask[2], ask[3], ask[4]
  local next_first = first + 3 + count
  local nonce_key = created_ms and KEYS[next_first + 1]
  local refused, retry_after_ms = nil, 0
  if nonce_key then
    refused, retry_after_ms = refusal(KEYS[next_first], nonce_key, created_ms)
    next_first = next_first + 2
  end
  local answer = refused and {refused, {}, 0, 0, 0, retry_after_ms, {}} or admit(first, count, rate, burst)
  if nonce_key and answer[3] + answer[4] > 0 then
    take(nonce_key)
  end
  answers[i] = answer
  first = next_first
end
save_buckets()
reply[1] = cmsgpack.pack(answers)
return reply

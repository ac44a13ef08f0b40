-- A semaphore over all replicas. Each call runs atomically.
-- KEYS: three sorted sets. held: each slot in use, scored by the end of its lease. line: each waiting request, scored by
--   its arrival. alive: each waiting request, scored by the time at which it leaves the queue unless it asks again.
-- ARGV: command, id of the request, slots it needs, slots in all, milliseconds of a lease, milliseconds for which a request
--   stays in the queue without asking again.
-- Times are milliseconds of the clock of Redis.

local held, line, alive = KEYS[1], KEYS[2], KEYS[3]
local id, slots, limit, lease, stay = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function dequeue(request)
  redis.call('ZREM', line, request)
  redis.call('ZREM', alive, request)
end

local function enqueue()
  redis.call('ZADD', line, 'NX', now, id)
  redis.call('ZADD', alive, now + stay, id)
  for _, request in ipairs(redis.call('ZRANGEBYSCORE', alive, '-inf', now)) do dequeue(request) end
  for _, key in ipairs({line, alive}) do redis.call('PEXPIRE', key, stay) end
end

local commands = {}

-- Returns 1 if the request got its slots, and 0 if it waits, behind all that arrived before it.
function commands.acquire()
  redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
  enqueue()
  local is_first = redis.call('ZRANGE', line, 0, 0)[1] == id
  if not is_first or redis.call('ZCARD', held) + slots > limit then return 0 end
  dequeue(id)
  return commands.renew()
end

-- Extends the leases. Restores them if Redis has lost them, since the request runs in any case.
function commands.renew()
  for slot = 1, slots do redis.call('ZADD', held, now + lease, id .. ':' .. slot) end
  redis.call('PEXPIRE', held, lease)
  return 1
end

function commands.release()
  for slot = 1, slots do redis.call('ZREM', held, id .. ':' .. slot) end
  dequeue(id)
  return 1
end

return commands[ARGV[1]]()

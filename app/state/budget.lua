-- What is used of the monthly budget of a client key over all replicas, in whole units. Each call runs atomically.
-- KEYS: used, the units that were spent or are reserved; open, a hash with the units that each request has reserved.
-- ARGV: command, id of the reservation, units, units that may be used in all (-1: no limit), seconds until both expire.
-- Amounts are added as the texts that they came in: numbers of Lua are exact to 2^53 only, which limits stay below.

local used, open = KEYS[1], KEYS[2]
local id, units, limit, seconds = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]

local commands = {}

-- Reserves units. Returns whether there was room, and what is used now. Asking again with the same id changes nothing.
function commands.reserve()
  local now = tonumber(redis.call('GET', used) or '0')
  if redis.call('HEXISTS', open, id) == 1 then return {1, redis.call('GET', used)} end
  if limit >= 0 and now + tonumber(units) > limit then return {0, redis.call('GET', used) or '0'} end
  redis.call('INCRBY', used, units)
  redis.call('HSET', open, id, units)
  for _, key in ipairs({used, open}) do redis.call('EXPIRE', key, seconds) end
  return {1, redis.call('GET', used)}
end

-- Puts what was really spent in the place of what was reserved, once.
function commands.settle()
  local reserved = redis.call('HGET', open, id)
  if not reserved then return {0, redis.call('GET', used) or '0'} end
  redis.call('HDEL', open, id)
  redis.call('DECRBY', used, reserved)
  redis.call('INCRBY', used, units)
  return {1, redis.call('GET', used)}
end

return commands[ARGV[1]]()

-- The turns of one key over all replicas. A call is one step: nobody ever sees half of it.
-- KEYS: who has turns and until when, who waits and since when, until when those who wait are believed to live.
-- ARGV: command, id, turns it needs, turns there are, milliseconds that a lease and that a place in the line last.
-- The clock is that of Redis, in milliseconds.

local held, line, alive = KEYS[1], KEYS[2], KEYS[3]
local id, share, limit, lease, patience = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function step_out(who)
  redis.call('ZREM', line, who)
  redis.call('ZREM', alive, who)
end

local function line_up()
  redis.call('ZADD', line, 'NX', now, id)
  redis.call('ZADD', alive, now + patience, id)
  for _, who in ipairs(redis.call('ZRANGEBYSCORE', alive, '-inf', now)) do step_out(who) end
  for _, key in ipairs({line, alive}) do redis.call('PEXPIRE', key, patience) end
end

local commands = {}

-- 1: it has its turns. 0: it waits, behind all who came before it.
function commands.acquire()
  redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
  line_up()
  local is_first = redis.call('ZRANGE', line, 0, 0)[1] == id
  if not is_first or redis.call('ZCARD', held) + share > limit then return 0 end
  step_out(id)
  return commands.renew()
end

-- A sign of life. Writes anew what Redis has forgotten: who paints, paints, whatever is written.
function commands.renew()
  for turn = 1, share do redis.call('ZADD', held, now + lease, id .. ':' .. turn) end
  redis.call('PEXPIRE', held, lease)
  return 1
end

function commands.release()
  for turn = 1, share do redis.call('ZREM', held, id .. ':' .. turn) end
  step_out(id)
  return 1
end

return commands[ARGV[1]]()

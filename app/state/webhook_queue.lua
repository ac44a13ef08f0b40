-- Webhooks that have not been delivered yet, for all replicas. Each call runs atomically.
-- KEYS: records, a hash with the JSON of each webhook by its slot; waiting, a sorted set of the slots whose task runs, by
--   the time of the next look at it; queues, a sorted set of the queues that hold something to send, by the time of it.
-- Each queue, that of a caller for a host, is a sorted set of the slots to send, by the time of the next attempt.
-- ARGV: command, its arguments as JSON, the JSON of a webhook.
-- Times are milliseconds of the clock of Redis.

local records, waiting, queues = KEYS[1], KEYS[2], KEYS[3]
local args, record = cjson.decode(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function key_of(queue) return args.prefix .. 'queue:' .. queue end
local function pause_of(queue) return args.prefix .. 'pause:' .. queue end

-- Until when nothing of a queue is sent: one webhook is on its way, or was sent less than a second ago.
local function pause(queue, till)
  if till > now then
    redis.call('SET', pause_of(queue), till, 'PX', till - now)
  else
    redis.call('DEL', pause_of(queue))
  end
end

-- Order a queue among the others, by the time at which something of it may be sent.
local function index(queue)
  local due = redis.call('ZRANGE', key_of(queue), 0, 0, 'WITHSCORES')[2]
  if not due then return redis.call('ZREM', queues, queue) end
  redis.call('ZADD', queues, math.max(due, redis.call('GET', pause_of(queue)) or 0), queue)
end

-- Nothing outlives its use: everything is forgotten when it was not touched for so long.
local function keep()
  for _, key in ipairs({records, waiting, queues}) do redis.call('PEXPIRE', key, args.ttl) end
end

local function enqueue(queue, slot, due)
  redis.call('ZADD', key_of(queue), due, slot)
  redis.call('PEXPIRE', key_of(queue), args.ttl)
  index(queue)
end

local commands = {}

-- Keep a webhook of a task. Returns 1; 0 where one with this slot is there already.
function commands.add()
  if redis.call('HSETNX', records, args.slot, record) == 0 then return {0} end
  redis.call('ZADD', waiting, now + args.look_after, args.slot)
  keep()
  return {1}
end

-- The task has ended: the webhook is to be sent. One that Redis has lost is kept again where it is to be restored.
function commands.ready()
  local is_known = redis.call('HEXISTS', records, args.slot) == 1
  local was_waiting = redis.call('ZREM', waiting, args.slot) == 1
  if (is_known and not was_waiting) or (not is_known and not args.restore) then return {0} end
  redis.call('HSET', records, args.slot, record)
  enqueue(args.queue, args.slot, now)
  keep()
  return {1}
end

-- Some webhooks whose tasks are to be looked at now: their replica may have died. Nobody else looks for a while.
function commands.overdue()
  local found = {}
  for _, slot in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', now, 'LIMIT', 0, args.most)) do
    local known = redis.call('HGET', records, slot)
    if known then
      redis.call('ZADD', waiting, now + args.look_after, slot)
      table.insert(found, known)
    else
      redis.call('ZREM', waiting, slot)
    end
  end
  return found
end

-- The next webhook of each of some queues. Until it is released, or its lease ends, nothing else of its queue is sent.
function commands.claim()
  local found = {string.format('%d', now)}
  for _, queue in ipairs(redis.call('ZRANGEBYSCORE', queues, '-inf', now, 'LIMIT', 0, args.most)) do
    local slot = redis.call('ZRANGE', key_of(queue), 0, 0)[1]
    local known = slot and redis.call('HGET', records, slot)
    if known then
      redis.call('ZADD', key_of(queue), now + args.lease, slot)
      pause(queue, now + args.lease)
      table.insert(found, known)
    elseif slot then
      redis.call('ZREM', key_of(queue), slot)
    end
    index(queue)
  end
  return found
end

-- End a claim: send the webhook again after a while, or forget it.
function commands.release()
  if record == '' then
    redis.call('HDEL', records, args.slot)
    redis.call('ZREM', key_of(args.queue), args.slot)
  elseif redis.call('HEXISTS', records, args.slot) == 1 then
    redis.call('HSET', records, args.slot, record)
    enqueue(args.queue, args.slot, now + args.after)
  end
  pause(args.queue, args.claimed_at + args.interval)
  index(args.queue)
  keep()
  return {1}
end

function commands.forget()
  redis.call('ZREM', waiting, args.slot)
  redis.call('HDEL', records, args.slot)
  return {1}
end

function commands.size() return {redis.call('HLEN', records)} end

return commands[ARGV[1]]()

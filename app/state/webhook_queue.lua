-- Webhooks that have not been delivered yet, for all replicas. Each call runs atomically.
-- KEYS: records, a hash with the JSON of each webhook by its slot; waiting, a sorted set of the slots whose task runs, by
--   the time of the next look at it; hosts, a sorted set of the hosts that something is to be sent to, by the time of it.
-- Each host has a sorted set of its own with the slots to send, by the time of the next attempt.
-- ARGV: command, its arguments as JSON, the JSON of a webhook.
-- Times are milliseconds of the clock of Redis.

local records, waiting, hosts = KEYS[1], KEYS[2], KEYS[3]
local args, record = cjson.decode(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function queue_of(host) return args.prefix .. 'host:' .. host end
local function pause_of(host) return args.prefix .. 'pause:' .. host end

-- Until when nothing is sent to a host: one webhook is on its way there, or was sent less than a second ago.
local function pause(host, till)
  if till > now then
    redis.call('SET', pause_of(host), till, 'PX', till - now)
  else
    redis.call('DEL', pause_of(host))
  end
end

-- Order a host among the others, by the time at which something may be sent to it.
local function index(host)
  local due = redis.call('ZRANGE', queue_of(host), 0, 0, 'WITHSCORES')[2]
  if not due then return redis.call('ZREM', hosts, host) end
  redis.call('ZADD', hosts, math.max(due, redis.call('GET', pause_of(host)) or 0), host)
end

-- Nothing outlives its use: everything is forgotten when it was not touched for so long.
local function keep()
  for _, key in ipairs({records, waiting, hosts}) do redis.call('PEXPIRE', key, args.ttl) end
end

local function enqueue(host, slot, due)
  redis.call('ZADD', queue_of(host), due, slot)
  redis.call('PEXPIRE', queue_of(host), args.ttl)
  index(host)
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
  enqueue(args.host, args.slot, now)
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

-- The next webhook of each of some hosts. Until it is released, or its lease ends, nothing is sent to this host.
function commands.claim()
  local found = {string.format('%d', now)}
  for _, host in ipairs(redis.call('ZRANGEBYSCORE', hosts, '-inf', now, 'LIMIT', 0, args.most)) do
    local slot = redis.call('ZRANGE', queue_of(host), 0, 0)[1]
    local known = slot and redis.call('HGET', records, slot)
    if known then
      redis.call('ZADD', queue_of(host), now + args.lease, slot)
      pause(host, now + args.lease)
      table.insert(found, known)
    elseif slot then
      redis.call('ZREM', queue_of(host), slot)
    end
    index(host)
  end
  return found
end

-- End a claim: send the webhook again after a while, or forget it.
function commands.release()
  if record == '' then
    redis.call('HDEL', records, args.slot)
    redis.call('ZREM', queue_of(args.host), args.slot)
  elseif redis.call('HEXISTS', records, args.slot) == 1 then
    redis.call('HSET', records, args.slot, record)
    enqueue(args.host, args.slot, now + args.after)
  end
  pause(args.host, args.claimed_at + args.interval)
  index(args.host)
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

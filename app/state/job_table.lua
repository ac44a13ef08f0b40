-- Which replica runs which job, which replicas have readers waiting for it, and its outcome. One call is one atomic step.
-- KEYS[1]: a slot, the list of the ids of all jobs with the same key. ARGV: command, its arguments as JSON, an outcome.
-- Times are in milliseconds, by the clock of Redis. A record without an outcome whose heartbeat has stopped is an orphan.
-- Every command may arrive twice, since its reply can be lost on the way.

local slot, args, outcome = KEYS[1], cjson.decode(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function key_of(id) return args.prefix .. id end
local function readers_key(id) return key_of(id) .. ':readers' end

-- The record of a job as a table; nil where there is none, or only a tombstone.
local function read(id)
  local record, flat = {}, redis.call('HGETALL', key_of(id))
  for i = 1, #flat, 2 do record[flat[i]] = flat[i + 1] end
  return record.owner ~= '' and record.owner and record
end

local function is_owned_by_another(id)
  local owner = redis.call('HGET', key_of(id), 'owner')
  return owner and owner ~= args.owner
end

-- Let a key live for at least so many milliseconds more.
local function extend(key, milliseconds)
  if redis.call('PTTL', key) < milliseconds then redis.call('PEXPIRE', key, milliseconds) end
end

local function write(id, fields)
  for name, value in pairs(fields) do redis.call('HSET', key_of(id), name, value) end
  redis.call('HSET', key_of(id), 'owner', args.owner, 'heartbeat', now)
  redis.call('LREM', slot, 0, id)
  redis.call('RPUSH', slot, id)
  redis.call('PEXPIRE', key_of(id), args.ttl)
  extend(slot, args.ttl)
end

local function delete(id)
  redis.call('DEL', key_of(id), readers_key(id))
  redis.call('LREM', slot, 0, id)
end

-- Leave a tombstone: the owner may only have been slow, and must find out that the job is not its own any more.
local function bury(id)
  delete(id)
  redis.call('HSET', key_of(id), 'owner', '')
  redis.call('PEXPIRE', key_of(id), args.delivery_lease)
end

local function is_orphan(record) return not record.outcome and now - record.heartbeat > args.dead_after end

-- Count the replicas whose lease lasts for so many milliseconds more.
local function count_readers(id, left) return redis.call('ZCOUNT', readers_key(id), now + left, '+inf') end

-- Note that this replica has readers for the job. A job with readers is not forgotten.
local function lease(id, milliseconds)
  redis.call('ZADD', readers_key(id), now + milliseconds, args.reader)
  extend(readers_key(id), milliseconds)
  extend(key_of(id), milliseconds)
end

-- An equal request may join: always with an idempotency key; without one only where the job has no readers, or the
-- request says that it is a retry, or the owner or a replica with readers has been silent for so long that it may be
-- dead, so that this may be the client which it has lost.
local function accepts(id, record)
  if args.keyed or record.retry_free == '1' then return true end
  local is_silent = not record.outcome and now - record.heartbeat > args.suspect_after
  local is_unread = record.readers + count_readers(id, args.reader_lease - args.suspect_after) == 0
  return (args.is_retry or is_silent or is_unread) and record.async ~= '1' and record.delivered ~= '1'
end

-- Without an idempotency key the loss of a job is reported to one request; a client that asks again after that wants to
-- pay again. Returns whether another request has been told already.
local function was_reported_to_another(id, record, reader)
  if not args.keyed and record.loss_reported_to and record.loss_reported_to ~= reader then return true end
  redis.call('HSET', key_of(id), 'loss_reported_to', reader)
  return false
end

local commands = {}

-- Join a job of the slot, or claim a new one.
function commands.claim()
  for _, id in ipairs(redis.call('LRANGE', slot, 0, -1)) do
    local record = id ~= args.id and read(id)
    if not record then
      redis.call('LREM', slot, 0, id)
    elseif record.fingerprint ~= args.fields.fingerprint then
      return {'key_reused', id}
    elseif is_orphan(record) and record.submitted == '1' then
      if not was_reported_to_another(id, record, args.id) then return {'lost', id} end
      delete(id)
    elseif is_orphan(record) and count_readers(id, 0) == 0 then
      -- If replicas wait for an orphan, one of them takes it over; otherwise this request replaces it.
      bury(id)
    elseif accepts(id, record) then
      lease(id, args.reader_lease)
      return {'joined', id}
    end
  end
  write(args.id, args.fields)
  return {'claimed', args.id}
end

-- Store the state of a job, or its outcome. Restores what Redis has forgotten. `submitted` never goes back.
function commands.publish()
  if is_owned_by_another(args.id) then return {'not_owner'} end
  if redis.call('HGET', key_of(args.id), 'submitted') == '1' then args.fields.submitted = '1' end
  if outcome ~= '' and count_readers(args.id, 0) > 0 then args.ttl = math.max(args.ttl, args.delivery_lease) end
  write(args.id, args.fields)
  if outcome ~= '' then redis.call('HSET', key_of(args.id), 'outcome', outcome) end
  return {'ok'}
end

-- Renew the heartbeats of all jobs of an owner; KEYS[i] is the slot of signs[i]. Returns the ids that are not its own.
function commands.heartbeat()
  local unknown = {'ok'}
  for i, sign in ipairs(args.signs) do
    if redis.call('HGET', key_of(sign.id), 'owner') == args.owner then
      redis.call('HSET', key_of(sign.id), 'heartbeat', now, 'readers', sign.readers)
      if sign.submitted then redis.call('HSET', key_of(sign.id), 'submitted', '1') end
      extend(key_of(sign.id), sign.ttl)
      extend(KEYS[i], sign.ttl)
    else
      table.insert(unknown, sign.id)
    end
  end
  return unknown
end

-- Ask for the outcome of a job of another replica, and renew the lease of this replica's readers.
function commands.poll()
  local record = read(args.id)
  if not record then return {'gone'} end
  if is_orphan(record) and record.submitted == '1' then
    was_reported_to_another(args.id, record, args.reader)
    return {'lost'}
  end
  lease(args.id, record.outcome and args.delivery_lease or args.reader_lease)
  if is_orphan(record) then return {'orphaned'} end
  return record.outcome and {'done', record.outcome} or {'in_flight'}
end

-- Become the owner of a job that has surely cost nothing yet, or that was paid for and could not be delivered. Of
-- several replicas that try, one succeeds.
function commands.take_over()
  local record = read(args.id)
  if record and record.taken_over_by == args.reader then return {'ok'} end
  local is_free = record and (record.retry_free == '1' or (is_orphan(record) and record.submitted == '0'))
  if not is_free then return {'not_owner'} end
  redis.call('HDEL', key_of(args.id), 'outcome')
  redis.call('ZREM', readers_key(args.id), args.reader)
  -- A job that was paid for stays so, whichever replica delivers it.
  args.fields.submitted, args.fields.taken_over_by = record.submitted, args.reader
  write(args.id, args.fields)
  return {'ok'}
end

-- End the lease of this replica's readers. A delivered result is forgotten, unless there is an idempotency key or other
-- replicas wait for it.
function commands.unsubscribe()
  redis.call('ZREM', readers_key(args.id), args.reader)
  local record = args.delivered and not args.keyed and read(args.id)
  if not (record and record.outcome) then return {'ok'} end
  if count_readers(args.id, 0) == 0 then
    delete(args.id)
  else
    redis.call('HSET', key_of(args.id), 'delivered', '1')
  end
  return {'ok'}
end

-- Delete the record of a job without an outcome, unless other replicas wait for one.
function commands.abandon()
  if is_owned_by_another(args.id) then return {'not_owner'} end
  if count_readers(args.id, 0) > 0 then return {'awaited'} end
  delete(args.id)
  return {'ok'}
end

-- The state of a job, for a client that comes back with its id alone.
function commands.lookup()
  local record = read(args.id)
  if not record or record.caller ~= args.caller then return {'gone'} end
  if is_orphan(record) then return {'lost'} end
  return record.outcome and {'done', record.outcome} or {'in_flight'}
end

return commands[ARGV[1]]()

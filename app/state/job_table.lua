-- Which replica runs which job, which replicas have readers waiting for it, and its outcome. One call is one atomic step.
-- KEYS[1]: a group, which orders the ids of all jobs with the same key by the time from which a request may join them.
-- ARGV: command, its arguments as JSON, an outcome.
-- Times are in milliseconds, by the clock of Redis. A record without an outcome whose heartbeat has stopped is an orphan,
-- unless Redis itself was away.
-- Every command may arrive twice, since its reply can be lost on the way.

local group, args, outcome = KEYS[1], cjson.decode(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The first word of a reply. TableAnswer in job_table_reply.py says what each one means.
local OK, CLAIMED, JOINED, JOINED_OWN, KEY_REUSED = 'ok', 'claimed', 'joined', 'joined_own', 'key_reused'
local IN_FLIGHT, SUBMITTED, DONE, AWAITED, NOT_OWNER = 'in_flight', 'submitted', 'done', 'awaited', 'not_owner'
local ORPHANED, LOST, UNKNOWN, SETTLING = 'orphaned', 'lost', 'unknown', 'settling'

-- More than any time. The score of an unread job in its group is the time since which it is unread, less this; that of a
-- delivered one is the time of delivery, plus this: so unread jobs come first, and delivered ones last. A result that a
-- client seems to read has this very score.
local FAR = 1e14

local function key_of(id) return args.prefix .. id end
local function readers_key(id) return key_of(id) .. ':readers' end

-- == Redis itself ==

-- Since when commands have come without a long silence. Idle replicas give heartbeats too, so a long silence says that Redis
-- was stopped, restarted or cut off: no owner could reach it.
local reached_since = redis.call('GET', args.prefix .. 'reached') or now
redis.call('SET', args.prefix .. 'reached', reached_since)
redis.call('PEXPIRE', args.prefix .. 'reached', args.silent_after)

-- The id of this start of Redis; empty where Redis does not tell it.
local function redis_run_id()
  local _, facts = pcall(redis.call, 'INFO', 'server')
  return type(facts) == 'string' and string.match(facts, 'run_id:(%w+)') or ''
end

-- When this table began, since Redis was found without it: its data may have been lost then.
if redis.call('SET', key_of('epoch'), now, 'NX') then redis.call('SET', key_of('run'), redis_run_id()) end

-- Redis that was started again, or a replica of it that has replaced it, may lack what was written last, so the table begins
-- anew.
local function epoch()
  local before, run = redis.call('GET', key_of('run')), redis_run_id()
  if before and before ~= run then redis.call('SET', key_of('epoch'), now) end
  redis.call('SET', key_of('run'), run)
  return redis.call('GET', key_of('epoch'))
end

local function age() return now - epoch() end

-- == Records ==

-- All fields of a record but its outcome, which may be large.
local FIELDS = {
  'owner', 'caller', 'fingerprint', 'keyed', 'heartbeat', 'readers', 'submitted', 'delivered', 'retry_free', 'async',
  'failed', 'loss_reported_to', 'taken_over_by',
}

-- The record of a job as a table; nil where there is none, or only a tombstone.
local function read(id)
  local record, values = {}, redis.call('HMGET', key_of(id), unpack(FIELDS))
  for i, name in ipairs(FIELDS) do record[name] = values[i] or nil end
  record.has_outcome = redis.call('HEXISTS', key_of(id), 'outcome') == 1
  return record.owner and record.owner ~= '' and record
end

local function has_outcome(id) return redis.call('HEXISTS', key_of(id), 'outcome') == 1 end

-- Let a key live for at least so many milliseconds more.
local function extend(key, milliseconds)
  if redis.call('PTTL', key) < milliseconds then redis.call('PEXPIRE', key, milliseconds) end
end

-- Whether a record is of an earlier start of Redis, and its owner has not confirmed it since: it may have given the job up,
-- or lost it to another one, and Redis has forgotten that.
local function is_stale(record) return record.heartbeat + 0 < tonumber(epoch()) end

local function is_owned_by_another(id)
  local owner = redis.call('HGET', key_of(id), 'owner')
  return owner and owner ~= args.owner
end

-- The last time at which an owner gave a heartbeat, or began to be able to give one.
local function last_heartbeat(record) return math.max(record.heartbeat, reached_since) end

local function is_orphan(record) return not record.has_outcome and now - last_heartbeat(record) > args.dead_after end

-- Whether nothing is lost with a job of an earlier start of Redis. Its owner may have given it up since, or another one taken
-- it over: since Redis was started again, neither the owner nor a replica that waits has come for it.
local function is_unconfirmed(id, record)
  local has_cost_nothing = record.submitted == '0' and (record.retry_free == '1' or not record.has_outcome)
  if not has_cost_nothing or not is_stale(record) then return false end
  local latest_lease = redis.call('ZREVRANGE', readers_key(id), 0, 0, 'WITHSCORES')[2] or 0
  return latest_lease - args.reader_lease < tonumber(epoch())
end

-- Whether the replica that asks runs a job, by its record.
local function is_own(record) return record.owner == args.owner and not record.has_outcome end

-- Whether the replica that asks has given a job up, and Redis has not heard of it yet.
local function is_given_up(id, record) return id == args.given_up and is_own(record) end

-- Whether a job is run by the replica that asks.
local function is_run_here(id, record) return is_own(record) and not is_given_up(id, record) end

-- == Readers at other replicas ==

-- Count the replicas with a lease. Where Redis was away, nobody could renew one, and those that wait do so soon.
local function count_readers(id)
  local from = reached_since + args.reader_lease > now and '-inf' or now
  return redis.call('ZCOUNT', readers_key(id), from, '+inf')
end

-- Note that this replica has readers for the job. A job with readers is not forgotten.
local function lease(id, milliseconds)
  redis.call('ZADD', readers_key(id), now + milliseconds, args.reader)
  -- Longer than the lease: it must not be forgotten while Redis is away.
  extend(readers_key(id), milliseconds + args.delivery_lease)
  extend(key_of(id), milliseconds)
end

-- == The order of a group ==

-- The time from which any equal request may join; later than now for a job that only a retry may join, nil where none
-- may. With an idempotency key each request may; without one only where the job has no readers, or the owner or a
-- replica with readers has been silent for so long that it may be dead: then this may be the client which it has lost.
-- A failure is only for those that wait for it, unless a further run brings what was paid for.
-- The more readers a job has, the later: several retries join several jobs.
local function joinable_from(id, record)
  if record.keyed == '1' then return now - FAR end
  if record.async == '1' and (record.retry_free ~= '1' or record.submitted ~= '1') then return nil end
  if record.retry_free ~= '1' then
    if record.failed == '1' then return nil end
    if record.delivered == '1' then return now + FAR end
  end
  local last_lease = redis.call('ZREVRANGE', readers_key(id), 0, 0, 'WITHSCORES')[2]
  local last_look = last_lease and math.max(last_lease - args.reader_lease, reached_since)
  local lease_over = last_look and last_look + args.suspect_after or 0
  if record.readers + 0 == 0 and lease_over < now then return now - FAR end
  local readers = record.readers + count_readers(id)
  local silent_from = record.has_outcome and FAR or last_heartbeat(record) + args.suspect_after * math.max(1, readers)
  return record.readers + 0 == 0 and math.min(silent_from, lease_over) or silent_from
end

-- Order a job among those of its group. One that stays unread, or delivered, keeps its score unless it is to `move`.
local function index(group_key, id, move)
  local record = read(id)
  local from = record and joinable_from(id, record)
  if not from then return redis.call('ZREM', group_key, id) end
  local before = tonumber(redis.call('ZSCORE', group_key, id) or 0)
  local stays = (before < 0 and from < 0) or (before > FAR and from > FAR)
  if stays and not move then return end
  if from > FAR then
    -- Several may be delivered in one millisecond.
    from = math.max(from, (redis.call('ZREVRANGE', group_key, 0, 0, 'WITHSCORES')[2] or 0) + 1)
  end
  redis.call('ZADD', group_key, from, id)
end

-- == Commands of one owner, which may overtake each other ==

-- The number of the latest command of this owner about a job; 0 where the job is not its own.
local function latest_command(id)
  local owner, sequence = unpack(redis.call('HMGET', key_of(id), 'owner', 'sequence'))
  return owner == args.owner and tonumber(sequence or 0) or 0
end

-- Note that this command is about a job, and return whether none has come that was sent later: commands of one owner may
-- overtake each other. The number of readers in an overtaken one is out of date: a heartbeat must not say that a client is
-- there whose end of waiting is known already.
local function note_command(id)
  if latest_command(id) > args.sequence then return false end
  redis.call('HSET', key_of(id), 'sequence', args.sequence)
  return true
end

-- How many readers a job has at its owner, which has sent this number. The number lacks a reader whose claim was on its way
-- then, although that claim may have arrived first.
local function readers_at_owner(id, readers, claim)
  local joined_by = redis.call('HGET', key_of(id), 'joined_here_by')
  return readers + (joined_by and joined_by + 0 == claim and 1 or 0)
end

-- == Write and delete records ==

local function write(id, fields)
  note_command(id)
  for name, value in pairs(fields) do redis.call('HSET', key_of(id), name, value) end
  redis.call('HSET', key_of(id), 'owner', args.owner, 'heartbeat', now)
  redis.call('PEXPIRE', key_of(id), args.ttl)
  index(group, id)
  extend(group, args.ttl)
end

local function delete(id)
  redis.call('DEL', key_of(id), readers_key(id))
  redis.call('ZREM', group, id)
end

-- Leave a tombstone: the owner may only have been slow, and must find out that the job is not its own any more.
local function leave_tombstone(id)
  delete(id)
  redis.call('HSET', key_of(id), 'owner', '')
  redis.call('PEXPIRE', key_of(id), args.delivery_lease)
end

-- Delete a record of the replica that asks. For a while it is remembered that this was done: a command that was sent before
-- may still be on its way.
local function give_up(id)
  delete(id)
  redis.call('HSET', key_of(id), 'given_up_by', args.owner, 'sequence', args.sequence)
  redis.call('PEXPIRE', key_of(id), args.delivery_lease)
end

-- Whether the owner has given a job up by a command that was sent later: this one comes late, and nobody would run the job.
local function was_given_up(id)
  local owner, by, sequence = unpack(redis.call('HMGET', key_of(id), 'owner', 'given_up_by', 'sequence'))
  return not owner and by == args.owner and sequence + 0 > args.sequence
end

-- == Requests that have ended with nothing ==

-- How many requests of the group have ended with nothing, at no cost: their clients had left, or got an error, and mark
-- their retries. For as long as such a retry may come, it is no evidence that the client of another job is gone.
local unserved = args.prefix .. 'unserved:' .. group

local function has_unserved() return tonumber(redis.call('HGET', unserved, 'count') or 0) > 0 end

local function add_unserved(more)
  redis.call('HINCRBY', unserved, 'count', more)
  redis.call('PEXPIRE', unserved, args.delivered_for)
end

local function note_unserved(id)
  redis.call('HSET', key_of(id), 'unserved', '1')
  add_unserved(1)
end

-- Note that a job goes on that has no record: a request has joined it just before it was given up, or a retry has begun it
-- while Redis was away.
local function note_begun(id)
  local goes_on = redis.call('HDEL', key_of(id), 'unserved') == 1
  if goes_on or (args.is_retry and not args.keyed) then add_unserved(-1) end
end

-- == Join a job ==

-- Count one more reader. The owner counts those that it has itself, until its next heartbeat says how many they are.
local function add_reader(id, record)
  if is_run_here(id, record) then
    note_command(id)
    redis.call('HINCRBY', key_of(id), 'readers', 1)
    redis.call('HSET', key_of(id), 'joined_here_by', args.sequence)
  else
    lease(id, args.reader_lease)
  end
  index(group, id, true)
end

-- A delivered result stays for a while, for requests that say they are retries.
local function mark_delivered(id)
  redis.call('HSET', key_of(id), 'delivered', '1')
  if count_readers(id) == 0 then redis.call('PEXPIRE', key_of(id), args.delivered_for) end
  index(group, id, true)
end

local function joined(id, record) return {is_run_here(id, record) and JOINED_OWN or JOINED, id} end

-- Count the request as a reader, and note what it has joined, should its claim come once more.
local function join(id, record)
  add_reader(id, record)
  redis.call('HSET', key_of(args.id), 'joined', id, 'joined_by', args.sequence)
  redis.call('PEXPIRE', key_of(args.id), args.delivery_lease)
  return joined(id, record)
end

-- The reply to this very claim if it comes once more, since its first reply was lost; nil if it is new. The replica
-- may have been paused before it sent the claim once more, and another one may have taken the job over meanwhile, finished
-- it, and delivered it: then the request joins it.
local function repeated_reply()
  local record = read(args.id)
  if was_given_up(args.id) then return {CLAIMED, args.id} end
  if record and record.owner == args.owner then
    -- A claim that was given up may arrive behind later commands of the owner.
    if latest_command(args.id) <= args.sequence then write(args.id, args.fields) end
    return {CLAIMED, args.id}
  end
  local id = args.id
  if not record then
    local by
    id, by = unpack(redis.call('HMGET', key_of(args.id), 'joined', 'joined_by'))
    record = id and by + 0 == args.sequence and read(id)
  end
  if not record then return nil end
  if not is_run_here(id, record) then add_reader(id, record) end
  return joined(id, record)
end

-- Report the loss of a job to a request. Without an idempotency key only one request learns of it; a client that asks again
-- after that wants to pay again. Returns whether it was reported to another request before.
local function was_reported_to_another(id, record, reader)
  if not args.keyed and record.loss_reported_to and record.loss_reported_to ~= reader then return true end
  redis.call('HSET', key_of(id), 'loss_reported_to', reader)
  return false
end

-- Whether the request may join a job that has readers: its client may have sent it before, and only seem to wait.
local function may_join_read_job() return args.keyed or (args.is_retry and not has_unserved()) end

-- For how long a request has to wait before it may claim a job: where the table is so young that owners may not have restored
-- their records yet, one with an idempotency key has to wait, and so has a retry. It names the table that it has waited for,
-- because Redis may lose its data once more meanwhile.
local function time_to_wait()
  local must_wait = (args.keyed or args.is_retry) and not args.has_waited and args.waited_for ~= epoch()
  return must_wait and args.settled_after - age() or 0
end

-- The reply to a request that joins a job of the group, or must not have a new one; nil where there is no such job. Only the
-- first in order is looked at. Records that are in the way are removed, and scores that are out of date are mended, each
-- once.
local function find_joinable()
  while true do
    local id, score = unpack(redis.call('ZRANGE', group, 0, 0, 'WITHSCORES'))
    if not id then return nil end
    local record = read(id)
    local from = record and joinable_from(id, record)
    local may_join = from and (may_join_read_job() or from <= now)
    if not from then
      redis.call('ZREM', group, id)
    elseif record.fingerprint ~= args.fields.fingerprint then
      return {KEY_REUSED, id}
    elseif not may_join and score + 0 > now then
      return nil
    elseif not may_join then
      redis.call('ZADD', group, from, id)
    elseif is_given_up(id, record) and count_readers(id) == 0 then
      give_up(id)
    elseif is_orphan(record) and record.submitted == '1' then
      if not was_reported_to_another(id, record, args.id) then return {LOST, id} end
      delete(id)
    elseif is_unconfirmed(id, record) then
      if time_to_wait() > 0 then return nil end
      leave_tombstone(id)
    elseif is_orphan(record) and count_readers(id) == 0 then
      -- If replicas wait for an orphan, one of them takes it over; otherwise this request replaces it.
      leave_tombstone(id)
    else
      return join(id, record)
    end
  end
end

-- == The commands ==

local commands = {}

-- Join a job of the group, or claim a new one. `unread`: jobs that have no readers at this replica, which may not have
-- published that yet; the request joins one that has no record, since no other replica can have joined that one. `given_up`:
-- a job of this replica that nobody wants. The request joins it only where other replicas wait for it, so that its outcome
-- is on its way.
function commands.claim()
  local repeated = repeated_reply()
  if repeated then return repeated end
  redis.call('ZREMRANGEBYSCORE', group, FAR + 1, FAR + now - args.delivered_for)
  for _, id in ipairs(args.unread) do
    local record = read(id)
    if not record then return {JOINED_OWN, id} end
    if record.owner == args.owner and note_command(id) then
      redis.call('HSET', key_of(id), 'readers', 0)
      index(group, id)
    end
  end
  local found = find_joinable()
  if found then return found end
  local wait = time_to_wait()
  if wait > 0 then return {SETTLING, string.format('%d ', wait) .. epoch()} end
  -- Also below 0: a retry may have overtaken the request that it repeats.
  if args.is_retry and not args.keyed then add_unserved(-1) end
  write(args.id, args.fields)
  return {CLAIMED, args.id}
end

-- Whether the table has forgotten a job with an idempotency key, and another one has replaced it.
local function is_replaced(id)
  if not args.keyed or read(id) then return false end
  while true do
    local other = redis.call('ZRANGE', group, 0, 0, 'WITHSCORES')[1]
    if not other or other == id then return false end
    if read(other) then return true end
    redis.call('ZREM', group, other)
  end
end

-- Store the state of a job, or its outcome. Restores what Redis has forgotten. `submitted` never goes back. A job without
-- an outcome runs again, or was delivered: the outcome of an earlier run would be an error that no replica can mend. A state
-- that was given up may arrive behind the outcome, and is out of date then.
function commands.publish()
  -- An owner that does not confirm a record after a restart of Redis may have lost the job to this one before.
  local record = read(args.id)
  local has_owner = is_owned_by_another(args.id) and not (record and is_stale(record))
  if has_owner or was_given_up(args.id) then return {NOT_OWNER} end
  if args.submitting and is_replaced(args.id) then return {NOT_OWNER} end
  if not record then note_begun(args.id) end
  -- An outcome that comes once more is there already, and may have been delivered since.
  if outcome ~= '' and has_outcome(args.id) and latest_command(args.id) >= args.sequence then return {OK} end
  if redis.call('HGET', key_of(args.id), 'submitted') == '1' then args.fields.submitted = '1' end
  local is_latest = note_command(args.id)
  if outcome ~= '' then
    if count_readers(args.id) > 0 then args.ttl = math.max(args.ttl, args.delivery_lease) end
    redis.call('HSET', key_of(args.id), 'outcome', outcome)
  elseif not is_latest and has_outcome(args.id) then
    return {OK}
  else
    redis.call('HDEL', key_of(args.id), 'outcome')
  end
  -- An outcome waits for anyone, whoever has joined while it was published.
  if outcome == '' then
    local readers = readers_at_owner(args.id, args.fields.readers, args.claim)
    args.fields.readers = is_latest and readers or redis.call('HGET', key_of(args.id), 'readers')
  end
  write(args.id, args.fields)
  return {OK}
end

-- Note that the owner has delivered a job, and keeps the outcome to itself until another replica asks for it.
function commands.deliver()
  if is_owned_by_another(args.id) or was_given_up(args.id) then return {NOT_OWNER} end
  if count_readers(args.id) > 0 then return {AWAITED} end
  if not note_command(args.id) and has_outcome(args.id) then return {OK} end
  if not read(args.id) then note_begun(args.id) end
  redis.call('HDEL', key_of(args.id), 'outcome')
  write(args.id, args.fields)
  mark_delivered(args.id)
  return {OK}
end

-- Renew the heartbeats of all jobs of an owner; KEYS[i] is the group of heartbeats[i]. Returns the ids that are not its own,
-- and after an empty one the ids of delivered jobs whose outcome another replica waits for.
function commands.heartbeat()
  local unknown, wanted = {OK}, {}
  age()
  for i, beat in ipairs(args.heartbeats) do
    local key = key_of(beat.id)
    if redis.call('HGET', key, 'owner') ~= args.owner then
      table.insert(unknown, beat.id)
    elseif redis.call('HEXISTS', key, 'outcome') == 0 then
      -- A heartbeat may arrive after the outcome that was published behind it, and must not say that there are readers.
      redis.call('HSET', key, 'heartbeat', now)
      if note_command(beat.id) then
        redis.call('HSET', key, 'readers', readers_at_owner(beat.id, beat.readers, beat.claim))
      end
      if beat.submitted then redis.call('HSET', key, 'submitted', '1') end
      if not beat.delivered then
        extend(key, beat.ttl)
        extend(KEYS[i], beat.ttl)
      elseif count_readers(beat.id) > 0 then
        table.insert(wanted, beat.id)
      end
      index(KEYS[i], beat.id)
    end
  end
  table.insert(unknown, '')
  for _, id in ipairs(wanted) do table.insert(unknown, id) end
  return unknown
end

-- Ask for the outcome of a job of another replica, and renew the lease of this replica's readers.
function commands.poll()
  local record = read(args.id)
  if not record then return {UNKNOWN} end
  if is_orphan(record) and record.submitted == '1' then
    was_reported_to_another(args.id, record, args.reader)
    return {LOST}
  end
  -- A replica that sends an outcome does not look again. Should it die, the next request may be that of its client.
  lease(args.id, args.reader_lease)
  if record.has_outcome then extend(key_of(args.id), args.delivery_lease) end
  if is_orphan(record) then return {ORPHANED} end
  return record.has_outcome and {DONE, redis.call('HGET', key_of(args.id), 'outcome')} or {IN_FLIGHT}
end

-- Become the owner of a job that has surely cost nothing yet, or that was paid for and could not be delivered. Of
-- several replicas that try, one succeeds.
function commands.take_over()
  local record = read(args.id)
  if record and record.taken_over_by == args.reader then return {OK, record.async} end
  -- Another replica may have taken it over already, and tells so with its next heartbeat.
  if record and is_stale(record) and age() < args.settled_after then return {SETTLING} end
  local is_free = record and (record.retry_free == '1' or (is_orphan(record) and record.submitted == '0'))
  if not is_free then return {NOT_OWNER} end
  redis.call('HDEL', key_of(args.id), 'outcome')
  redis.call('HDEL', key_of(args.id), 'joined_here_by')
  redis.call('ZREM', readers_key(args.id), args.reader)
  -- A job that was paid for stays so, whichever replica delivers it; and a client that does not wait still comes back.
  args.fields.submitted, args.fields.taken_over_by = record.submitted, args.reader
  if record.async == '1' then args.fields.async = '1' end
  write(args.id, args.fields)
  return {OK, args.fields.async}
end

-- End the lease of this replica's readers, who may have been delivered the result. Whoever comes back later for one by its
-- id or its idempotency key finds it still.
function commands.unsubscribe()
  redis.call('ZREM', readers_key(args.id), args.reader)
  local record = read(args.id)
  local is_kept = record and (record.keyed == '1' or record.async == '1')
  if record and record.has_outcome and args.delivered and not is_kept then
    mark_delivered(args.id)
  elseif record then
    index(group, args.id)
  end
  return {OK}
end

-- Delete the record of a job without an outcome, unless other replicas wait for one. `unserved`: its client has got nothing,
-- at no cost, and marks its retries.
function commands.abandon()
  if is_owned_by_another(args.id) then return {NOT_OWNER} end
  local is_unserved = args.unserved and read(args.id)
  if count_readers(args.id) > 0 then return {AWAITED} end
  give_up(args.id)
  if is_unserved then note_unserved(args.id) end
  return {OK}
end

-- Why a caller does not find its job; nil where it does. If the table is young, the owner may not have restored the record
-- yet.
local function why_unknown(record)
  if record then return record.caller ~= args.caller and UNKNOWN or nil end
  return age() < args.settled_after and SETTLING or UNKNOWN
end

-- The state of a job, for a client that comes back with its id alone.
function commands.lookup()
  local record = read(args.id)
  local unknown = why_unknown(record)
  if unknown then return {unknown} end
  local left = string.format('%d', redis.call('PTTL', key_of(args.id)))
  -- One that has cost nothing is taken over by a replica with readers.
  if is_orphan(record) and (record.submitted == '1' or count_readers(args.id) == 0) then
    return {record.submitted == '1' and LOST or ORPHANED, '', left}
  end
  return record.has_outcome and {DONE, redis.call('HGET', key_of(args.id), 'outcome'), left} or {IN_FLIGHT, '', left}
end

-- End a job that has surely cost nothing and that no client waits for, with the given outcome. Its owner finds out that
-- the job is not its own any more, before it submits anything.
function commands.cancel()
  local record = read(args.id)
  local unknown = why_unknown(record)
  if unknown then return {unknown} end
  if record.has_outcome then return {DONE, redis.call('HGET', key_of(args.id), 'outcome')} end
  if record.submitted == '1' then return {is_orphan(record) and LOST or SUBMITTED} end
  -- A client that has only joined with a receipt does not wait.
  if args.reader then redis.call('ZREM', readers_key(args.id), args.reader) end
  local is_read = record.readers + 0 > 0 and not is_orphan(record)
  if is_read or count_readers(args.id) > 0 then return {AWAITED} end
  redis.call('HSET', key_of(args.id), 'outcome', outcome, 'failed', '1', 'readers', 0, 'owner', args.owner)
  return {OK}
end

return commands[ARGV[1]]()

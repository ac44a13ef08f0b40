-- What replicas tell each other of their errands. A call is one step: nobody ever sees half of it.
-- KEYS[1]: a place, the list of the ids of all who ask the same there. ARGV: command, its arguments as JSON, an outcome.
-- The clock is that of Redis, in milliseconds. A record without an outcome whose beat has stopped is an orphan.

local place, said, outcome = KEYS[1], cjson.decode(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function key_of(id) return said.prefix .. id end
local function readers_of(id) return key_of(id) .. ':readers' end

local function read(id)
  local told, flat = {}, redis.call('HGETALL', key_of(id))
  for i = 1, #flat, 2 do told[flat[i]] = flat[i + 1] end
  return told.owner and told
end

local function write(id, fields)
  for name, value in pairs(fields) do redis.call('HSET', key_of(id), name, value) end
  redis.call('HSET', key_of(id), 'beat', now)
  redis.call('LREM', place, 0, id)
  redis.call('RPUSH', place, id)
  redis.call('PEXPIRE', key_of(id), said.ttl)
  if redis.call('PTTL', place) < said.ttl then redis.call('PEXPIRE', place, said.ttl) end
end

local function forget(id)
  redis.call('DEL', key_of(id), readers_of(id))
  redis.call('LREM', place, 0, id)
end

local function is_orphan(told) return not told.outcome and now - told.beat > said.patience end
local function count_readers(id) return redis.call('ZCOUNT', readers_of(id), now, '+inf') end

local function lease(id, milliseconds)
  redis.call('ZADD', readers_of(id), now + milliseconds, said.reader)
  redis.call('PEXPIRE', readers_of(id), said.ttl)
end

-- With a key always; without one where nobody waits for it any more, or the request says that it has come again.
local function may_be_joined(id, told)
  if said.keyed or told.free == '1' then return true end
  local is_free = said.again or told.here + count_readers(id) == 0
  return is_free and told.async ~= '1' and told.delivered ~= '1'
end

local commands = {}

-- Join an errand of the place, or post a new one.
function commands.enter()
  for _, id in ipairs(redis.call('LRANGE', place, 0, -1)) do
    local told = id ~= said.id and read(id)
    if not told then
      redis.call('LREM', place, 0, id)
    elseif told.fingerprint ~= said.fields.fingerprint then
      return {'reused', id}
    elseif is_orphan(told) then
      -- Without a key it is told once; who asks again after that wants to pay again.
      if told.asked == '0' or not said.keyed then forget(id) end
      if told.asked == '1' then return {'lost', id} end
    elseif may_be_joined(id, told) then
      lease(id, said.lease)
      return {'joined', id}
    end
  end
  write(said.id, said.fields)
  return {'posted', said.id}
end

-- A sign of life of its owner, and what has changed. Writes anew what Redis has forgotten.
function commands.tell()
  local told = read(said.id)
  if told and told.owner ~= said.fields.owner then return {'taken'} end
  write(said.id, said.fields)
  if outcome ~= '' then redis.call('HSET', key_of(said.id), 'outcome', outcome) end
  return {'told'}
end

-- Somebody who has joined looks whether it is done.
function commands.look()
  local told = read(said.id)
  if not told then return {'gone'} end
  if is_orphan(told) then return {told.asked == '1' and 'lost' or 'orphan'} end
  lease(said.id, told.outcome and said.sending or said.lease)
  return told.outcome and {'done', told.outcome} or {'under way'}
end

-- Take over what surely has cost nothing yet, or is paid for and could not be delivered. Of several one gets it.
function commands.adopt()
  local told = read(said.id)
  local is_free = told and (told.free == '1' or (is_orphan(told) and told.asked == '0'))
  if not is_free then return {'taken'} end
  redis.call('HDEL', key_of(said.id), 'outcome')
  redis.call('ZREM', readers_of(said.id), said.reader)
  write(said.id, said.fields)
  return {'adopted'}
end

-- A reader has gone. What has been delivered is forgotten, but under a key.
function commands.leave()
  redis.call('ZREM', readers_of(said.id), said.reader)
  if said.delivered and not said.keyed then forget(said.id) end
  return {'left'}
end

-- Its owner does not need it any more; it stays where others wait for what has come of it.
function commands.drop()
  if count_readers(said.id) > 0 then return {'kept'} end
  forget(said.id)
  return {'dropped'}
end

-- How it stands, for who comes back with its id alone.
function commands.find()
  local told = read(said.id)
  if not told or told.caller ~= said.caller then return {'gone'} end
  if is_orphan(told) then return {'lost'} end
  return told.outcome and {'done', told.outcome} or {'under way'}
end

return commands[ARGV[1]]()

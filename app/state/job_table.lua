-- What replicas tell each other of their errands. A call is one step: nobody ever sees half of it.
-- KEYS[1]: a place, the list of the ids of all who ask the same there. ARGV: command, its arguments as JSON, an outcome.
-- The clock is that of Redis, in milliseconds. A record without an outcome whose beat has stopped is an orphan.
-- What is said once may arrive twice, where an answer was lost on the way.

local place, said, outcome = KEYS[1], cjson.decode(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function key_of(id) return said.prefix .. id end
local function readers_of(id) return key_of(id) .. ':readers' end

-- nil for what is buried, too.
local function read(id)
  local told, flat = {}, redis.call('HGETALL', key_of(id))
  for i = 1, #flat, 2 do told[flat[i]] = flat[i + 1] end
  return told.owner ~= '' and told.owner and told
end

local function is_anothers(id)
  local owner = redis.call('HGET', key_of(id), 'owner')
  return owner and owner ~= said.owner
end

local function remember(key, milliseconds)
  if redis.call('PTTL', key) < milliseconds then redis.call('PEXPIRE', key, milliseconds) end
end

local function write(id, fields)
  for name, value in pairs(fields) do redis.call('HSET', key_of(id), name, value) end
  redis.call('HSET', key_of(id), 'owner', said.owner, 'beat', now)
  redis.call('LREM', place, 0, id)
  redis.call('RPUSH', place, id)
  redis.call('PEXPIRE', key_of(id), said.ttl)
  remember(place, said.ttl)
end

local function forget(id)
  redis.call('DEL', key_of(id), readers_of(id))
  redis.call('LREM', place, 0, id)
end

-- Its owner may only have been away: it must find out that this is not its own any more.
local function bury(id)
  forget(id)
  redis.call('HSET', key_of(id), 'owner', '')
  redis.call('PEXPIRE', key_of(id), said.sending)
end

local function is_orphan(told) return not told.outcome and now - told.beat > said.patience end

-- Those whose lease lasts for so many milliseconds more.
local function count_readers(id, left) return redis.call('ZCOUNT', readers_of(id), now + left, '+inf') end

-- What somebody waits for is not forgotten under his hands.
local function lease(id, milliseconds)
  redis.call('ZADD', readers_of(id), now + milliseconds, said.reader)
  remember(readers_of(id), milliseconds)
  remember(key_of(id), milliseconds)
end

-- With a key always; without one where nobody waits for it any more, or the request says that it has come again, or the
-- owner, or who waits elsewhere, is so silent that he may be dead, and this the client that he has lost.
local function may_be_joined(id, told)
  if said.keyed or told.free == '1' then return true end
  local is_silent = not told.outcome and now - told.beat > said.silence
  local is_free = said.again or is_silent or told.here + count_readers(id, said.lease - said.silence) == 0
  return is_free and told.async ~= '1' and told.delivered ~= '1'
end

-- Without a key a loss is told to one request; who asks again after that wants to pay again.
local function is_told_of_loss(id, told, reader)
  if not said.keyed and told.lost and told.lost ~= reader then return true end
  redis.call('HSET', key_of(id), 'lost', reader)
  return false
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
    elseif is_orphan(told) and told.asked == '1' then
      if not is_told_of_loss(id, told, said.id) then return {'lost', id} end
      forget(id)
    elseif is_orphan(told) and count_readers(id, 0) == 0 then
      -- Of those who wait for it one takes it over; where nobody does, this request.
      bury(id)
    elseif may_be_joined(id, told) then
      lease(id, said.lease)
      return {'joined', id}
    end
  end
  write(said.id, said.fields)
  return {'posted', said.id}
end

-- How it stands, or what has come of it. Writes anew what Redis has forgotten. Who has asked once has asked.
function commands.tell()
  if is_anothers(said.id) then return {'taken'} end
  if redis.call('HGET', key_of(said.id), 'asked') == '1' then said.fields.asked = '1' end
  if outcome ~= '' and count_readers(said.id, 0) > 0 then said.ttl = math.max(said.ttl, said.sending) end
  write(said.id, said.fields)
  if outcome ~= '' then redis.call('HSET', key_of(said.id), 'outcome', outcome) end
  return {'told'}
end

-- Signs of life of all that an owner works on, each with its place. Names those that are not known as its own.
function commands.beat()
  local unknown = {'heard'}
  for i, sign in ipairs(said.signs) do
    if redis.call('HGET', key_of(sign.id), 'owner') == said.owner then
      redis.call('HSET', key_of(sign.id), 'beat', now, 'here', sign.here)
      if sign.asked then redis.call('HSET', key_of(sign.id), 'asked', '1') end
      remember(key_of(sign.id), sign.ttl)
      remember(KEYS[i], sign.ttl)
    else
      table.insert(unknown, sign.id)
    end
  end
  return unknown
end

-- Somebody who has joined looks whether it is done.
function commands.look()
  local told = read(said.id)
  if not told then return {'gone'} end
  if is_orphan(told) and told.asked == '1' then
    is_told_of_loss(said.id, told, said.reader)
    return {'lost'}
  end
  lease(said.id, told.outcome and said.sending or said.lease)
  if is_orphan(told) then return {'orphan'} end
  return told.outcome and {'done', told.outcome} or {'under way'}
end

-- Take over what surely has cost nothing yet, or is paid for and could not be delivered. Of several one gets it.
function commands.adopt()
  local told = read(said.id)
  if told and told.adopter == said.reader then return {'adopted'} end
  local is_free = told and (told.free == '1' or (is_orphan(told) and told.asked == '0'))
  if not is_free then return {'taken'} end
  redis.call('HDEL', key_of(said.id), 'outcome')
  redis.call('ZREM', readers_of(said.id), said.reader)
  -- What is paid for stays so, whoever delivers it.
  said.fields.asked, said.fields.adopter = told.asked, said.reader
  write(said.id, said.fields)
  return {'adopted'}
end

-- A reader has gone. What has been delivered is forgotten, but under a key, and but for others who wait for it.
function commands.leave()
  redis.call('ZREM', readers_of(said.id), said.reader)
  local told = said.delivered and not said.keyed and read(said.id)
  if not (told and told.outcome) then return {'left'} end
  if count_readers(said.id, 0) == 0 then
    forget(said.id)
  else
    redis.call('HSET', key_of(said.id), 'delivered', '1')
  end
  return {'left'}
end

-- Its owner does not need it any more; it stays where others wait for what has come of it.
function commands.drop()
  if is_anothers(said.id) then return {'taken'} end
  if count_readers(said.id, 0) > 0 then return {'kept'} end
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

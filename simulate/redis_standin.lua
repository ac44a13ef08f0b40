-- A stand-in for the commands of Redis that job_table.lua uses, for tests of schedules: all data in tables of Lua.
-- Returns functions: `call` as scripts do, `set_time` in milliseconds, `flush`, `save`, and `restore` what was saved, in a new run.

local values, expires, now, run = {}, {}, 0, 1
local saved

local function text(value)
  if type(value) == 'number' then return string.format('%.17g', value) end
  if type(value) ~= 'string' then error('Lua redis lib command arguments must be strings or integers') end
  return value
end

local function find(key, kind)
  if expires[key] and expires[key] <= now then values[key], expires[key] = nil, nil end
  local value = values[key]
  if value and value.kind ~= kind then error('WRONGTYPE Operation against a key holding the wrong kind of value') end
  return value
end

local function find_or_make(key, kind)
  local value = find(key, kind)
  if not value then
    value = {kind = kind, n = 0, items = {}}
    values[key] = value
  end
  return value
end

local function drop_if_empty(key, value)
  if value.n == 0 then values[key], expires[key] = nil, nil end
end

local function exists(key)
  if expires[key] and expires[key] <= now then values[key], expires[key] = nil, nil end
  return values[key] ~= nil
end

local commands = {}

function commands.TIME()
  return {string.format('%d', math.floor(now / 1000)), string.format('%d', (now % 1000) * 1000)}
end

function commands.INFO() return 'run_id:' .. run .. '\r\n' end

function commands.HSET(key, ...)
  local hash, added, fields = find_or_make(key, 'hash'), 0, {...}
  for i = 1, #fields, 2 do
    local name = text(fields[i])
    if hash.items[name] == nil then hash.n, added = hash.n + 1, added + 1 end
    hash.items[name] = text(fields[i + 1])
  end
  return added
end

function commands.HGET(key, name)
  local hash = find(key, 'hash')
  return hash and hash.items[text(name)] or false
end

function commands.HGETALL(key)
  local hash, flat = find(key, 'hash'), {}
  for name, value in pairs(hash and hash.items or {}) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  return flat
end

function commands.HMGET(key, ...)
  local hash, found = find(key, 'hash'), {}
  for i, name in ipairs({...}) do found[i] = hash and hash.items[text(name)] or false end
  return found
end

function commands.HEXISTS(key, name)
  local hash = find(key, 'hash')
  return hash and hash.items[text(name)] ~= nil and 1 or 0
end

function commands.HINCRBY(key, name, more)
  local hash = find(key, 'hash')
  local value = (hash and hash.items[text(name)] or 0) + more
  commands.HSET(key, name, value)
  return value
end

-- Remove one item of a hash or a sorted set. Returns how many were removed.
local function remove(key, kind, name)
  local value = find(key, kind)
  if not value or value.items[text(name)] == nil then return 0 end
  value.items[text(name)], value.n = nil, value.n - 1
  drop_if_empty(key, value)
  return 1
end

function commands.HDEL(key, name) return remove(key, 'hash', name) end

function commands.DEL(...)
  local deleted = 0
  for _, key in ipairs({...}) do
    if exists(key) then deleted = deleted + 1 end
    values[key], expires[key] = nil, nil
  end
  return deleted
end

function commands.EXISTS(key) return exists(key) and 1 or 0 end

function commands.PTTL(key)
  if not exists(key) then return -2 end
  return expires[key] and expires[key] - now or -1
end

function commands.PEXPIRE(key, milliseconds)
  if not exists(key) then return 0 end
  expires[key] = now + tonumber(milliseconds)
  return 1
end

-- Without options, or with NX.
function commands.SET(key, value, option)
  if option and option ~= 'NX' then error('SET with ' .. option) end
  if option and exists(key) then return false end
  values[key], expires[key] = {kind = 'string', n = 1, items = text(value)}, nil
  return {ok = 'OK'}
end

function commands.GET(key)
  local value = find(key, 'string')
  return value and value.items or false
end

function commands.ZADD(key, score, member)
  local set = find_or_make(key, 'zset')
  local added = set.items[text(member)] == nil and 1 or 0
  set.items[text(member)], set.n = tonumber(score), set.n + added
  return added
end

function commands.ZREM(key, member) return remove(key, 'zset', member) end

-- Only with an inclusive minimum and `+inf`.
function commands.ZCOUNT(key, least, most)
  if most ~= '+inf' then error('ZCOUNT with a maximum') end
  local set, count = find(key, 'zset'), 0
  for _, score in pairs(set and set.items or {}) do
    if score >= tonumber(least) then count = count + 1 end
  end
  return count
end

function commands.ZSCORE(key, member)
  local set = find(key, 'zset')
  local score = set and set.items[text(member)]
  return score and text(score) or false
end

-- Return the first member or the last one with its score.
local function first_of(key, is_before)
  local set, found, best = find(key, 'zset'), nil, nil
  for member, score in pairs(set and set.items or {}) do
    if not found or is_before(score, best) or (score == best and is_before(member, found)) then
      found, best = member, score
    end
  end
  return found and {found, text(best)} or {}
end

local function check_range(first, last, option)
  if text(first) ~= '0' or text(last) ~= '0' or option ~= 'WITHSCORES' then error('ZRANGE of more than one') end
end

function commands.ZRANGE(key, first, last, option)
  check_range(first, last, option)
  return first_of(key, function(one, other) return one < other end)
end

function commands.ZREVRANGE(key, first, last, option)
  check_range(first, last, option)
  return first_of(key, function(one, other) return one > other end)
end

function commands.ZREMRANGEBYSCORE(key, least, most)
  local set, removed = find(key, 'zset'), 0
  for member, score in pairs(set and set.items or {}) do
    if score >= tonumber(least) and score <= tonumber(most) then
      set.items[member], removed = nil, removed + 1
    end
  end
  if set then
    set.n = set.n - removed
    drop_if_empty(key, set)
  end
  return removed
end

local function call(name, ...)
  local command = commands[string.upper(name)]
  if not command then error('unknown command of the stand-in: ' .. name) end
  return command(...)
end

local function copy(table)
  if type(table) ~= 'table' then return table end
  local same = {}
  for key, value in pairs(table) do same[key] = copy(value) end
  return same
end

return {
  call = call,
  set_time = function(milliseconds) now = milliseconds end,
  flush = function() values, expires = {}, {} end,
  save = function() saved = {copy(values), copy(expires)} end,
  restore = function()
    values, expires = unpack(saved)
    run = run + 1
  end,
}

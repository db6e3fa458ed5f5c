"""The Lua scripts: each is one atomic step of the server. What is called when lives in the other files.

Keys of a channel (`Names`): `m` a hash of its top `t` and incarnation `i`; `l` a stream whose entry ids are the
offsets (`7-0`); `k:…` idempotency keys that expire; `z`, `h` presence by expiry and by client. Of all: `epoch`,
the base epoch; `run`, the server run that the data was last seen on; `seq`, how many publications there ever
were; `seq0`, what it was when that run began. Rules: a script that appends checks `run` first, so that nothing
is appended after a restart before somebody has compared what is there with what was acknowledged.
"""

from __future__ import annotations

from typing import Final

from narthex.ports.broker import IDEMPOTENCY_WINDOW_S

NEW_RUN: Final = "NEWRUN"

_HEAD: Final = """
local base = redis.call('GET', KEYS[1])
if not base or redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return redis.error_reply('NEWRUN the data was last seen on another run of the server')
end
local function epoch_of(incarnation)
  if incarnation and incarnation ~= '' then return base .. '.' .. incarnation end
  return base
end
"""

APPEND: Final = (
    _HEAD
    + f"""
-- KEYS: epoch, run, seq, then per publication: meta, log, key, told channel
-- ARGV: run, kept count, kept seconds, then per publication: data, tags
local time = redis.call('TIME')
local at = string.format('%d.%03d', time[1], math.floor(time[2] / 1000))
local out = {{}}
local count = (#KEYS - 3) / 4
for n = 0, count - 1 do
  local meta, log, key, told = KEYS[4 + 4*n], KEYS[5 + 4*n], KEYS[6 + 4*n], KEYS[7 + 4*n]
  local epoch = epoch_of(redis.call('HGET', meta, 'i'))
  local before = redis.call('GET', key)
  local split = before and string.find(before, ' ', 1, true)
  if before and string.sub(before, split + 1) == epoch then
    out[#out + 1] = {{tonumber(string.sub(before, 1, split - 1)), epoch, 1}}
  else
    local data, tags = ARGV[4 + 2*n], ARGV[5 + 2*n]
    local offset = redis.call('HINCRBY', meta, 't', 1)
    local id = string.format('%d-0', offset)
    redis.call('XADD', log, 'MAXLEN', '~', ARGV[2], id, 'a', at, 't', tags, 'd', data)
    redis.call('EXPIRE', log, ARGV[3])
    redis.call('SET', key, string.format('%d ', offset) .. epoch, 'EX', {IDEMPOTENCY_WINDOW_S})
    redis.call('PUBLISH', told, 'P' .. string.format('%d', offset) .. '\\n' .. at .. '\\n' .. epoch .. '\\n'
      .. string.format('%d', #tags) .. '\\n' .. tags .. data)
    out[#out + 1] = {{offset, epoch, 0}}
  end
end
local seq = redis.call('INCRBY', KEYS[3], count)
return {{seq, out}}
"""
)

READ: Final = (
    _HEAD
    + """
-- KEYS: epoch, run, meta, log   ARGV: run, wanted epoch, first, last, count, order
-- returns top, epoch, first kept offset, entries; with a wanted epoch that is not the log's, no entries
local meta = redis.call('HMGET', KEYS[3], 't', 'i')
local top, epoch = tonumber(meta[1] or 0), epoch_of(meta[2])
local oldest = redis.call('XRANGE', KEYS[4], '-', '+', 'COUNT', 1)
local kept = oldest[1] and tonumber(string.match(oldest[1][1], '^%d+')) or top + 1
local entries = {}
if tonumber(ARGV[5]) > 0 and (ARGV[2] == '' or ARGV[2] == epoch) then
  if ARGV[6] == 'asc' then
    entries = redis.call('XRANGE', KEYS[4], ARGV[3], ARGV[4], 'COUNT', ARGV[5])
  else
    entries = redis.call('XREVRANGE', KEYS[4], ARGV[4], ARGV[3], 'COUNT', ARGV[5])
  end
end
return {top, epoch, kept, entries}
"""
)

BEHIND: Final = (
    _HEAD
    + """
-- KEYS: epoch, run   ARGV: run, what a meta key begins with, JSON [[channel, offset, epoch], …]
-- returns {place in the list from 0, top, epoch} of every channel that does not end where the list says
local found = {}
for place, known in ipairs(cjson.decode(ARGV[3])) do
  local meta = redis.call('HMGET', ARGV[2] .. ':{' .. known[1] .. '}', 't', 'i')
  local top, epoch = tonumber(meta[1] or 0), epoch_of(meta[2])
  if top ~= known[2] or epoch ~= known[3] then found[#found + 1] = {place - 1, top, epoch} end
end
return found
"""
)

REMOVE: Final = (
    _HEAD
    + """
-- KEYS: epoch, run, meta, log   ARGV: run, new incarnation
redis.call('DEL', KEYS[4])
redis.call('HSET', KEYS[3], 't', 0, 'i', ARGV[2])
return epoch_of(ARGV[2])
"""
)

TRIM: Final = (
    _HEAD
    + """
-- KEYS: epoch, run, meta, log   ARGV: run, through
return redis.call('XTRIM', KEYS[4], 'MINID', string.format('%d-0', tonumber(ARGV[2]) + 1))
"""
)

ATTACH: Final = """
-- KEYS: epoch, run, seq, seq0   ARGV: the server's run id, an epoch for new data, whether a commit is synced
-- Called at every start and reconnect. Returns epoch, seq, seq0, and 1 when this call saw the run first.
local base = redis.call('GET', KEYS[1])
local first = 0
if not base then
  base = ARGV[2]
  redis.call('SET', KEYS[1], base)
end
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  first = 1
  redis.call('SET', KEYS[4], redis.call('GET', KEYS[3]) or 0)
  redis.call('SET', KEYS[2], ARGV[1])
end
return {base, tonumber(redis.call('GET', KEYS[3]) or 0), tonumber(redis.call('GET', KEYS[4]) or 0), first}
"""

CHANGE_EPOCH: Final = """
-- KEYS: epoch   ARGV: the epoch that lost publications, its successor. One of many callers changes it.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
end
return redis.call('GET', KEYS[1])
"""

JOIN: Final = """
-- KEYS: by expiry, by client, told channel   ARGV: client, member, seconds
local now = tonumber(redis.call('TIME')[1])
local before = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], 2 * ARGV[3])
redis.call('EXPIRE', KEYS[2], 2 * ARGV[3])
if not before or tonumber(before) <= now then
  redis.call('PUBLISH', KEYS[3], 'J' .. ARGV[2])
end
return 1
"""

LEAVE: Final = """
-- KEYS: by expiry, by client, told channel   ARGV: client
local member = redis.call('HGET', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if member then redis.call('PUBLISH', KEYS[3], 'L' .. member) end
return 1
"""

MEMBERS: Final = """
-- KEYS: by expiry, by client, told channel. Who has expired is forgotten and announced here.
local now = tonumber(redis.call('TIME')[1])
for _, client in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)) do
  local member = redis.call('HGET', KEYS[2], client)
  redis.call('ZREM', KEYS[1], client)
  redis.call('HDEL', KEYS[2], client)
  if member then redis.call('PUBLISH', KEYS[3], 'L' .. member) end
end
return redis.call('HVALS', KEYS[2])
"""


class Names:
    """Names of keys and told channels under one prefix; `{…}` keeps a channel's keys together."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.epoch = f"{prefix}:epoch"
        self.run = f"{prefix}:run"
        self.seq = f"{prefix}:seq"
        self.seq0 = f"{prefix}:seq0"
        self.meta_prefix = f"{prefix}:m"
        self.told_prefix = f"{prefix}:told:"
        self.control_all = f"{prefix}:control"
        self.control_prefix = f"{prefix}:control:"

    def meta(self, channel: str) -> str:
        """Top and incarnation."""
        return f"{self.meta_prefix}:{{{channel}}}"

    def log(self, channel: str) -> str:
        """The stream."""
        return f"{self._prefix}:l:{{{channel}}}"

    def key(self, channel: str, key: str) -> str:
        """One idempotency key; the channel's length keeps two pairs from giving one name."""
        return f"{self._prefix}:k:{len(channel)}:{{{channel}}}:{key}"

    def told(self, channel: str) -> str:
        """Where publications and notices are told."""
        return self.told_prefix + channel

    def presence(self, channel: str) -> tuple[str, str, str]:
        """Members by expiry, members by client, and where notices are told."""
        return f"{self._prefix}:z:{{{channel}}}", f"{self._prefix}:h:{{{channel}}}", self.told(channel)

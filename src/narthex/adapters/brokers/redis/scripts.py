"""The Lua scripts: each is one atomic step of the server. The other modules decide when to call them.

Keys of a channel (`KeyNames`): `m` a hash of its top `t` and incarnation `i`; `l` a stream whose entry ids are the
offsets (`7-0`); `k:…` idempotency keys that expire; `z`, `h` presence by expiry and by client. Shared keys: `epoch`,
the base epoch; `seq`, the number of publications that there ever were; `reign`, the replication id of the server with
which every node has compared its state; `nodes`, the nodes that append, with the server's time of their last beat;
`answers`, the nodes that have compared with a server other than `reign`.

Rules: a script that appends or reads asks the server itself for its id, because stored values travel with the data
to a replica, a restored file or another machine. A replication id is new at every start of a server and at every
promotion, so that no node appends or reads in an old epoch before the comparison of `ATTACH`.
"""

from __future__ import annotations

from typing import Final

from narthex.ports.broker import IDEMPOTENCY_WINDOW_S

NEW_RUN: Final = "NEWRUN"
REPLICA: Final = "REPLICA"
FORGOTTEN_S: Final = (
    10  # without a beat, on the server's clock: ten beats; such a node must compare before it appends
)

_OWN: Final = """
local info = redis.call('INFO', 'replication')
if not string.find(info, 'role:master', 1, true) then
  return redis.error_reply('REPLICA this server follows another one')
end
local own = string.match(info, 'master_replid:(%w+)')
"""

_HEAD: Final = (
    _OWN
    + """
local base = redis.call('GET', KEYS[1])
if not base or own ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= own then
  return redis.error_reply('NEWRUN another server answers, or the same one anew')
end
local function epoch_of(incarnation)
  if incarnation and incarnation ~= '' then return base .. '.' .. incarnation end
  return base
end
"""
)

APPEND: Final = (
    _HEAD
    + f"""
-- KEYS: epoch, reign, nodes, seq, then per publication: meta, log, key, told channel
-- ARGV: reign, node, kept count, kept seconds, then per publication: data, tags, expected end (`offset epoch`, `-1
--   epoch` for any offset, or empty)
-- Returns seq and per publication its offset, its epoch, and 0 (appended), 1 (a repeat) or 2 (the log's end, which was
-- not the expected one).
-- An idempotency key counts as long as the log has the same incarnation, even after the epoch changed, because the
-- log still holds the publication.
-- `seq` follows the milliseconds of the published moment. A reader that parses both as one float is wrong by less than
-- a millisecond.
if redis.call('HEXISTS', KEYS[3], ARGV[2]) == 0 then
  return redis.error_reply('NEWRUN this node was not heard of for a while')
end
local time = redis.call('TIME')
local at = string.format('%d.%03d', time[1], math.floor(time[2] / 1000))
local function ends_at(meta, epoch, expected)
  if expected == '' or expected == '-1 ' .. epoch then return true end
  return expected == string.format('%d ', redis.call('HGET', meta, 't') or 0) .. epoch
end
local out = {{}}
local count = (#KEYS - 4) / 4
local seq = redis.call('INCRBY', KEYS[4], count)
for n = 0, count - 1 do
  local meta, log, key, told = KEYS[5 + 4*n], KEYS[6 + 4*n], KEYS[7 + 4*n], KEYS[8 + 4*n]
  local incarnation = redis.call('HGET', meta, 'i')
  local epoch = epoch_of(incarnation)
  local before = redis.call('GET', key)
  local known = before and string.match(before, '^%d+ [^.]*%.?(.*)$')
  if known and known == (incarnation or '') then
    out[#out + 1] = {{tonumber(string.match(before, '^%d+')), epoch, 1}}
  elseif not ends_at(meta, epoch, ARGV[7 + 3*n]) then
    out[#out + 1] = {{tonumber(redis.call('HGET', meta, 't') or 0), epoch, 2}}
  else
    local data, tags = ARGV[5 + 3*n], ARGV[6 + 3*n]
    local offset = redis.call('HINCRBY', meta, 't', 1)
    local id = string.format('%d-0', offset)
    redis.call('XADD', log, 'MAXLEN', '~', ARGV[3], id, 'a', at, 't', tags, 'd', data)
    redis.call('EXPIRE', log, ARGV[4])
    redis.call('SET', key, string.format('%d ', offset) .. epoch, 'EX', {IDEMPOTENCY_WINDOW_S})
    redis.call('PUBLISH', told, 'P' .. string.format('%d', offset) .. '\\n' .. at
      .. string.format('%d', seq - count + n + 1) .. '\\n' .. epoch .. '\\n'
      .. string.format('%d', #tags) .. '\\n' .. tags .. data)
    out[#out + 1] = {{offset, epoch, 0}}
  end
end
return {{seq, out}}
"""
)

READ: Final = (
    _HEAD
    + """
-- KEYS: epoch, reign, meta, log, seq   ARGV: reign, wanted epoch, first, last, count, order
-- Returns top, epoch, first kept offset, entries, seq. The entries are empty if the wanted epoch is not the log's.
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
return {top, epoch, kept, entries, tonumber(redis.call('GET', KEYS[5]) or 0)}
"""
)

BEHIND: Final = (
    _HEAD
    + """
-- KEYS: epoch, reign   ARGV: reign, prefix of the meta keys, JSON [[epoch, channel, offset, channel, offset, …], …]
-- Returns {channel, top, epoch} for every channel whose log ends elsewhere than the list states. Lists by epoch (nearly
-- all channels have the same) cost the server a quarter less than a list for each channel.
local found, prefix = {}, ARGV[2] .. ':{'
for _, known in ipairs(cjson.decode(ARGV[3])) do
  for n = 2, #known, 2 do
    local meta = redis.call('HMGET', prefix .. known[n] .. '}', 't', 'i')
    local top, epoch = tonumber(meta[1] or 0), epoch_of(meta[2])
    if top ~= known[n + 1] or epoch ~= known[1] then found[#found + 1] = {known[n], top, epoch} end
  end
end
return found
"""
)

REMOVE: Final = (
    _HEAD
    + """
-- KEYS: epoch, reign, meta, log   ARGV: reign, new incarnation
redis.call('DEL', KEYS[4])
redis.call('HSET', KEYS[3], 't', 0, 'i', ARGV[2])
return epoch_of(ARGV[2])
"""
)

TRIM: Final = (
    _HEAD
    + """
-- KEYS: epoch, reign, meta, log   ARGV: reign, through, its epoch
if epoch_of(redis.call('HGET', KEYS[3], 'i')) ~= ARGV[3] then return 0 end
return redis.call('XTRIM', KEYS[4], 'MINID', string.format('%d-0', tonumber(ARGV[2]) + 1))
"""
)

ATTACH: Final = (
    _OWN
    + """
-- KEYS: epoch, reign, nodes, seq, answers
-- ARGV: node, the epoch that the node knows (empty: none), the highest seq that it received or got acknowledged, the
--   new epoch in case of a loss, whether the server syncs every commit, whether to stop waiting for other nodes
-- Returns reign, epoch, seq, whether nodes may append (if not: call again), whether a loss was found.
local node, knows, highest, fresh = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now = redis.call('TIME')[1]
local base = redis.call('GET', KEYS[1])
local open = redis.call('GET', KEYS[2])
local seq = tonumber(redis.call('GET', KEYS[4]) or 0)
if base and open == own then
  -- Every node has compared, or the epoch is new. If the server has fewer publications than this node knows, an
  -- operator restored an older snapshot of the machine.
  local lost = knows == base and highest > seq
  if lost then redis.call('SET', KEYS[1], fresh) end
  redis.pcall('HSET', KEYS[3], node, now) -- if memory is full, the node can still subscribe, which needs no entry here
  return {own, lost and fresh or base, seq, 1, lost and 1 or 0}
end
if redis.call('HGET', KEYS[5], 'reign') ~= own then
  redis.call('DEL', KEYS[5])
  redis.call('HSET', KEYS[5], 'reign', own)
end
local lost = not base and knows ~= '' or base and knows ~= '' and (knows ~= base or highest > seq)
if knows ~= '' and not lost then redis.call('HSET', KEYS[5], node, now) end
local waiting = 0
for _, other in ipairs(redis.call('HKEYS', KEYS[3])) do
  if other ~= node and redis.call('HEXISTS', KEYS[5], other) == 0 then waiting = waiting + 1 end
end
if not lost and waiting > 0 then
  if ARGV[6] == '0' then return {own, base or '', seq, 0, 0} end
  lost = true -- a node that does not answer may have received later publications
elseif not lost and redis.call('HLEN', KEYS[5]) == 1 and seq > 0 then
  -- No other node knows the state. Nothing is missing if the server syncs every commit and no replica took over.
  lost = ARGV[5] == '0' or string.match(info, 'master_replid2:(%w+)') == open
end
if lost or not base then
  base = fresh
  redis.call('SET', KEYS[1], base)
end
redis.call('SET', KEYS[2], own)
redis.call('DEL', KEYS[3])
redis.call('HDEL', KEYS[5], 'reign')
for _, other in ipairs(redis.call('HKEYS', KEYS[5])) do redis.call('HSET', KEYS[3], other, now) end
redis.call('HSET', KEYS[3], node, now)
redis.call('DEL', KEYS[5])
return {own, base, seq, 1, lost and 1 or 0}
"""
)

BEAT: Final = (
    _HEAD
    + f"""
-- KEYS: epoch, reign, nodes, seq   ARGV: reign, node, the channel on which this node receives its own beats
-- Removes nodes that sent no beat for a while. Every publication that they got acknowledged is below the `seq` that
-- this node gets here. A time in the future counts as now: the server's clock went back. Returns seq and epoch.
redis.call('PUBLISH', ARGV[3], '')
local now = tonumber(redis.call('TIME')[1])
if redis.call('HEXISTS', KEYS[3], ARGV[2]) == 0 then
  return redis.error_reply('NEWRUN this node was not heard of for a while')
end
local nodes = redis.call('HGETALL', KEYS[3])
for place = 1, #nodes, 2 do
  local age = now - tonumber(nodes[place + 1])
  if age > {FORGOTTEN_S} and nodes[place] ~= ARGV[2] then
    redis.call('HDEL', KEYS[3], nodes[place])
  elseif age < 0 then
    redis.call('HSET', KEYS[3], nodes[place], now)
  end
end
redis.call('HSET', KEYS[3], ARGV[2], now)
return {{tonumber(redis.call('GET', KEYS[4]) or 0), base}}
"""
)

DETACH: Final = (
    _HEAD
    + """
-- KEYS: epoch, reign, nodes   ARGV: reign, node
-- The node appends nothing from now on, so no other node has to wait for it.
return redis.call('HDEL', KEYS[3], ARGV[2])
"""
)

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
-- KEYS: by expiry, by client, told channel
-- Removes the expired members and publishes that they left.
local now = tonumber(redis.call('TIME')[1])
for _, client in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)) do
  local member = redis.call('HGET', KEYS[2], client)
  redis.call('ZREM', KEYS[1], client)
  redis.call('HDEL', KEYS[2], client)
  if member then redis.call('PUBLISH', KEYS[3], 'L' .. member) end
end
return redis.call('HVALS', KEYS[2])
"""


class KeyNames:
    """Names of keys and pub/sub channels under one prefix; `{…}` keeps a channel's keys in one slot."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.epoch = f"{prefix}:epoch"
        self.reign = f"{prefix}:reign"
        self.nodes = f"{prefix}:nodes"
        self.answers = f"{prefix}:answers"
        self.seq = f"{prefix}:seq"
        self.meta_prefix = f"{prefix}:m"
        self.told_prefix = f"{prefix}:told:"
        self.control_all = f"{prefix}:control"
        self.control_prefix = f"{prefix}:control:"
        self.beat_prefix = f"{prefix}:beat:"

    def meta(self, channel: str) -> str:
        """Top and incarnation."""
        return f"{self.meta_prefix}:{{{channel}}}"

    def log(self, channel: str) -> str:
        """The stream."""
        return f"{self._prefix}:l:{{{channel}}}"

    def key(self, channel: str, key: str) -> str:
        """One idempotency key; the channel's length in it prevents collisions of two pairs."""
        return f"{self._prefix}:k:{len(channel)}:{{{channel}}}:{key}"

    def told(self, channel: str) -> str:
        """The pub/sub channel of publications and notices."""
        return self.told_prefix + channel

    def presence(self, channel: str) -> tuple[str, str, str]:
        """Members by expiry, members by client, and the pub/sub channel of notices."""
        return f"{self._prefix}:z:{{{channel}}}", f"{self._prefix}:h:{{{channel}}}", self.told(channel)

"""The scripts of the Redis store: the swap, and reads that belong to one tip. LAYOUT.md describes what they keep.

What lives here: comparing, and moving bytes. What never does: a rule of the domain.

A script is atomic towards other clients, but it is not undone when a command in it fails. So the swap looks at
everything that could make a write fail before its first write; and while it writes, the meta's ``format`` says
that it is torn, which every reader takes as "nothing is there": a shard that a server's failure left half
written is rebuilt from the ledger and never believed.

The meta counts each bucket's fields. Every script compares the buckets that it touches, and only those, because a
Cluster whose slot is moving serves no key that was not declared. A bucket that somebody deleted alone is found the
first time that it is touched, and whoever finds it says so in the meta, so that all others see the same: nothing.

Numbers are passed as text and compared as text, because Lua would print a large one as ``1e+15``.
"""

from __future__ import annotations

from typing import Final

from adgovernor.stores.redis_client import REFUSAL, Script

FORMAT: Final = "2"
"""The layout's version, kept in every shard's meta."""
_WITHOUT_COUNTS: Final = "1"
"""The layout before it, which did not count: taken as nothing, so that it is rebuilt."""

_SLICE: Final = 4000
"""Arguments a variadic command gets at once; Lua refuses to unpack more than about 8000. It is even, so that no
pair is torn."""

_COMMON = f"""
local FORMAT, SLICE = '{FORMAT}', {_SLICE}

-- The meta's own fields, then how many fields each of the buckets has (KEYS[2] is the first one's); nothing at all
-- where the shard has no state, or a torn one, or one that lost fields of these buckets.
local function read_meta(buckets)
  local key = KEYS[1]
  local asked = {{'HMGET', key, 'format', 'ledger', 'height', 'chain', 'spine'}}
  for i, bucket in ipairs(buckets) do asked[i + 7] = 'bucket:' .. bucket end
  local found = redis.call(unpack(asked))
  local format = found[1]
  if format and format ~= FORMAT and format ~= 'torn' and format ~= '{_WITHOUT_COUNTS}' then
    return nil, redis.error_reply('{REFUSAL} layout ' .. format)
  end
  if format ~= FORMAT or not (found[2] and found[3] and found[4] and found[5]) then return nil end
  local known = {{}}
  for i, bucket in ipairs(buckets) do
    local count = found[i + 5] and tonumber(found[i + 5])
    if count and redis.call('HLEN', KEYS[i + 1]) ~= count then
      redis.call('HDEL', key, 'format')
      return nil
    end
    known[i] = count
  end
  return {{found[2], found[3], found[4], found[5]}}, nil, known
end
"""

SWAP: Final = Script(
    _COMMON
    + f"""
-- KEYS: meta, then one key for each changed bucket.
-- ARGV: 'swap', 'reset' or 'create'; expected ledger, height, chain; new ledger, height, chain, spine; then for
-- each bucket its name, how many fields are set, how many deleted, the pairs to set, the fields to delete.
local meta, how = KEYS[1], ARGV[1]

-- First everything that could go wrong.
local names, plan, at = {{}}, {{}}, 9
for i = 2, #KEYS do
  local sets, deletes = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  names[i - 1] = ARGV[at]
  plan[i] = {{at + 3, at + 2 + 2 * sets, at + 2 + 2 * sets + deletes}}
  at = at + 3 + 2 * sets + deletes
end
if at ~= #ARGV + 1 then return redis.error_reply('{REFUSAL} arguments') end
local present, refused, known = read_meta(names)
if refused then return refused end
if present then
  if how == 'create' or present[1] ~= ARGV[2] or present[2] ~= ARGV[3] or present[3] ~= ARGV[4] then
    return present
  end
elseif ARGV[2] ~= '' or ARGV[3] ~= '0' or ARGV[4] ~= '' then
  return {{'', '0', '', ''}}
end
for i = 2, #KEYS do redis.call('HLEN', KEYS[i]) end

-- From here on it writes.
if how == 'swap' and present then
  -- A server that is out of memory refuses a script at its first write only, and only where that one needs memory.
  redis.call('HSET', meta, 'format', 'torn')
else
  redis.call('HDEL', meta, 'format')
  local stem = string.sub(meta, 1, -5)
  for _, name in ipairs(redis.call('HKEYS', meta)) do
    if string.sub(name, 1, 7) == 'bucket:' then redis.call('UNLINK', stem .. string.sub(name, 8)) end
  end
  redis.call('UNLINK', meta)
  known = {{}}
end
local counts = {{}}
for i = 2, #KEYS do
  local key, first, middle, last = KEYS[i], plan[i][1], plan[i][2], plan[i][3]
  if not known[i - 1] then redis.call('UNLINK', key) end
  for from = first, middle, SLICE do
    redis.call('HSET', key, unpack(ARGV, from, math.min(from + SLICE - 1, middle)))
  end
  for from = middle + 1, last, SLICE do
    redis.call('HDEL', key, unpack(ARGV, from, math.min(from + SLICE - 1, last)))
  end
  counts[#counts + 1] = 'bucket:' .. names[i - 1]
  counts[#counts + 1] = redis.call('HLEN', key)
end
redis.call('HSET', meta, 'format', FORMAT, 'ledger', ARGV[5], 'height', ARGV[6], 'chain', ARGV[7], 'spine', ARGV[8],
  unpack(counts))
return 1
"""
)
"""Answers 1, or the present ledger, height, chain and spine."""

READ_META: Final = Script(
    _COMMON
    + """
-- KEYS: meta, then buckets to look at. ARGV: their names.
local present, refused = read_meta(ARGV)
return refused or {present or false}
"""
)
"""Answers the meta or nothing."""

READ_FIELDS: Final = Script(
    _COMMON
    + """
-- KEYS: meta, bucket. ARGV: the bucket's name, then fields.
local present, refused, known = read_meta({ARGV[1]})
if refused then return refused end
local answer = {present or false}
if present and known[1] then
  for from = 2, #ARGV, SLICE do
    answer[#answer + 1] = redis.call('HMGET', KEYS[2], unpack(ARGV, from, math.min(from + SLICE - 1, #ARGV)))
  end
end
return answer
"""
)
"""Answers the meta or nothing, then the values in slices; no slices where the bucket is empty."""

READ_BUCKETS: Final = Script(
    _COMMON
    + """
-- KEYS: meta, then buckets. ARGV: most fields to give at once, then the buckets' names.
local names = {}
for i = 2, #ARGV do names[i - 1] = ARGV[i] end
local present, refused, known = read_meta(names)
if refused then return refused end
local answer, room = {present or false}, tonumber(ARGV[1])
for i in ipairs(names) do
  local key, size = KEYS[i + 1], present and known[i] or 0
  if size == 0 then
    answer[i + 1] = {}
  elseif size <= room then
    answer[i + 1] = redis.call('HGETALL', key)
    room = room - size
  else
    answer[i + 1] = size
  end
end
return answer
"""
)
"""Answers the meta or nothing, then each bucket: fields and values in turn, or only its size where it is too big
to be given at once."""

SCAN_BUCKET: Final = Script(
    _COMMON
    + """
-- KEYS: meta, bucket. ARGV: the bucket's name, cursor, how many fields.
local present, refused = read_meta({ARGV[1]})
if refused then return refused end
local found = redis.call('HSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[3])
return {present or false, found[1], found[2]}
"""
)
"""Answers the meta or nothing, the next cursor, then fields and values in turn."""

//! The steps of the queue, each carried out by the database as a whole or not at all.
//!
//! A round of tasks is a hash: every task by its index is `posted`, `counted` or `dead`; `want` is how many there are in
//! all, `done` how many are counted.

/// KEYS tasks, round; ARGV round, want, then index and note of each task.
pub(super) const POST: &str = "
redis.call('HSET', KEYS[2], 'want', ARGV[2])
redis.call('HSETNX', KEYS[2], 'done', 0)
for i = 3, #ARGV, 2 do
  if redis.call('HSETNX', KEYS[2], ARGV[i], 'posted') == 1 then
    redis.call('XADD', KEYS[1], '*', 'round', ARGV[1], 'index', ARGV[i], 'note', ARGV[i + 1])
  end
end
return redis.status_reply('OK')";

/// KEYS tasks, round, events; ARGV group, consumer, id, round, index. Gives `counted`, `duplicate` or `fenced`.
pub(super) const COMPLETE: &str = "
local state = redis.call('HGET', KEYS[2], ARGV[5])
if state ~= 'posted' then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
  redis.call('XDEL', KEYS[1], ARGV[3])
  return state and 'duplicate' or 'fenced'
end
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if #pending == 0 or pending[1][2] ~= ARGV[2] then return 'fenced' end
redis.call('HSET', KEYS[2], ARGV[5], 'counted')
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
local done = redis.call('HINCRBY', KEYS[2], 'done', 1)
if tostring(done) == redis.call('HGET', KEYS[2], 'want') then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', 1000, '*', 'round', ARGV[4], 'what', 'done')
end
return 'counted'";

/// What is done to a task that was tried too often, as the function `bury(id, round, index, note, reason)`. KEYS are
/// tasks, events, dead; the key of the round is made from the prefix ARGV[#ARGV].
const BURY: &str = "
local function bury(id, round, index, note, reason)
  redis.call('XACK', KEYS[1], ARGV[1], id)
  redis.call('XDEL', KEYS[1], id)
  local key = ARGV[#ARGV] .. round
  if redis.call('HGET', key, index) ~= 'posted' then return end
  redis.call('HSET', key, index, 'dead', 'dead', index, 'reason', reason)
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', 10000, '*', 'round', round, 'index', index, 'note', note, 'reason', reason)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', 1000, '*', 'round', round, 'what', 'dead')
end
local function fields(entry)
  local named = {}
  for i = 1, #entry[2], 2 do named[entry[2][i]] = entry[2][i + 1] end
  return named
end
";

/// KEYS tasks, events, dead; ARGV group, consumer, idle in ms, count, most deliveries, prefix of rounds. Gives entries.
const CLAIM_BODY: &str = "
local taken = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], '0', 'COUNT', ARGV[4])[2]
local kept = {}
for _, entry in ipairs(taken) do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)
  if #pending > 0 and pending[1][4] > tonumber(ARGV[5]) then
    local task = fields(entry)
    bury(entry[1], task.round, task.index, task.note, 'every worker that tried it went silent')
  else
    kept[#kept + 1] = entry
  end
end
return kept";

/// KEYS tasks, events, dead; ARGV group, consumer, id, reason, most deliveries, prefix of rounds.
const RELEASE_BODY: &str = "
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if #pending == 0 or pending[1][2] ~= ARGV[2] then return redis.status_reply('OK') end
local entry = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3])[1]
if pending[1][4] >= tonumber(ARGV[5]) and entry then
  local task = fields(entry)
  bury(ARGV[3], task.round, task.index, task.note, ARGV[4])
else
  redis.call('XCLAIM', KEYS[1], ARGV[1], 'released', 0, ARGV[3], 'IDLE', 86400000, 'JUSTID')
end
return redis.status_reply('OK')";

/// KEYS tasks; ARGV group, consumer, ids. Gives how many are still the consumer's own.
pub(super) const BEAT: &str = "
local own = 0
for i = 3, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if #pending > 0 and pending[1][2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
    own = own + 1
  end
end
return own";

/// KEYS tasks, round, dead; ARGV id. Gives 1 if the letter was there.
pub(super) const REDRIVE: &str = "
local entry = redis.call('XRANGE', KEYS[3], ARGV[1], ARGV[1])[1]
if not entry then return 0 end
redis.call('XDEL', KEYS[3], ARGV[1])
local task = {}
for i = 1, #entry[2], 2 do task[entry[2][i]] = entry[2][i + 1] end
if redis.call('HGET', KEYS[2], task.index) == 'dead' then
  redis.call('HSET', KEYS[2], task.index, 'posted')
  redis.call('HDEL', KEYS[2], 'dead', 'reason')
  redis.call('XADD', KEYS[1], '*', 'round', task.round, 'index', task.index, 'note', task.note)
end
return 1";

/// KEYS tasks; ARGV group, consumer. Takes a consumer away that has nothing more to do.
pub(super) const LEAVE: &str = "
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if #pending == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
return redis.status_reply('OK')";

pub(super) fn claim() -> String {
    format!("{BURY}{CLAIM_BODY}")
}

pub(super) fn release() -> String {
    format!("{BURY}{RELEASE_BODY}")
}

/// A script with its keys; arguments follow.
pub(super) fn command(script: &str, keys: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(keys.len()).arg(keys);
    command
}

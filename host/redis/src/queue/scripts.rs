//! The atomic steps of the queue, as Lua scripts.
//!
//! A hash holds the tasks of a round, and is pruned with it:
//!
//! | field | value |
//! |---|---|
//! | `want`, `done` | number of tasks, and how many of them are counted |
//! | `<index>` | `posted`, `counted` or `dead` |
//! | `by:<index>:<consumer>` | how the consumer left the task: `failed` or `silent` |
//! | `workers:<index>` | how many workers did either, each counted once |
//! | `host:<index>` | how often the host failed at the task |
//! | `dead` | the index of one dead task, if any |
//! | `reason:<index>`, `letter:<index>`, `task:<index>` | of a dead task: reason, dead letter, id in the stream |
//!
//! A task that rests after a failure is pending for the consumer `released`; its idle time is how long it has rested.
//! The server measures idle times, so the workers' clocks do not matter.

/// KEYS tasks, round; ARGV round, want, then index and payload of each task.
pub(super) const POST: &str = "
redis.call('HSET', KEYS[2], 'want', ARGV[2])
redis.call('HSETNX', KEYS[2], 'done', 0)
for i = 3, #ARGV, 2 do
  if redis.call('HSETNX', KEYS[2], ARGV[i], 'posted') == 1 then
    redis.call('XADD', KEYS[1], '*', 'round', ARGV[1], 'index', ARGV[i], 'note', ARGV[i + 1])
  end
end
return redis.status_reply('OK')";

/// KEYS round. Returns `want`, `done`, and index and reason of a dead task.
pub(super) const LOOK: &str = "
local found = redis.call('HMGET', KEYS[1], 'want', 'done', 'dead')
found[4] = found[3] and redis.call('HGET', KEYS[1], 'reason:' .. found[3])
return found";

/// `dig_out(round, index, state)`: sets a dead task to `state`, and `dead` to another dead task, if any.
const DIG_OUT: &str = "
local function dig_out(round, index, state)
  redis.call('HSET', round, index, state)
  redis.call('HDEL', round, 'reason:' .. index, 'letter:' .. index, 'task:' .. index)
  if redis.call('HGET', round, 'dead') ~= index then return end
  redis.call('HDEL', round, 'dead')
  local all = redis.call('HGETALL', round)
  for i = 1, #all, 2 do
    if all[i + 1] == 'dead' and tonumber(all[i]) then
      redis.call('HSET', round, 'dead', all[i])
      return
    end
  end
end
";

/// KEYS tasks, round, events, dead; ARGV group, consumer, id, round, index. Returns `counted`, `duplicate` or `fenced`.
///
/// The gradient is in the sum, so a task that rests or was buried in the meantime counts. Its id must be the same: a
/// task that was posted anew has another id, and the sum may have been lost in between.
const COMPLETE_BODY: &str = "
local id, index = ARGV[3], ARGV[5]
local state = redis.call('HGET', KEYS[2], index)
if state == 'posted' then
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if not pending or (pending[2] ~= ARGV[2] and pending[2] ~= 'released') then return 'fenced' end
  redis.call('HSET', KEYS[2], index, 'counted')
elseif state == 'dead' and redis.call('HGET', KEYS[2], 'task:' .. index) == id then
  redis.call('XDEL', KEYS[4], redis.call('HGET', KEYS[2], 'letter:' .. index))
  dig_out(KEYS[2], index, 'counted')
end
redis.call('XACK', KEYS[1], ARGV[1], id)
redis.call('XDEL', KEYS[1], id)
if state == 'counted' then return 'duplicate' end
if redis.call('HGET', KEYS[2], index) ~= 'counted' then return 'fenced' end
local done = redis.call('HINCRBY', KEYS[2], 'done', 1)
if tostring(done) == redis.call('HGET', KEYS[2], 'want') then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', 1000, '*', 'round', ARGV[4], 'what', 'done')
end
return 'counted'";

/// `say_alive(workers, consumer, silence)`: adds a worker to the set of workers, and sets a key for it that expires
/// unless it is set again. Servers do not record when a consumer last asked without getting a task.
const SAY_ALIVE: &str = "
local function say_alive(workers, consumer, silence)
  if string.sub(consumer, 1, 7) ~= 'worker:' then return end
  redis.call('SADD', workers, consumer)
  redis.call('SET', workers .. ':' .. consumer, '', 'PX', silence)
end
";

/// Shared by the steps about attempts. KEYS tasks, workers; ARGV group, consumer, prefix of rounds, silence in ms, most
/// workers that try a task.
const ATTEMPTS: &str = "
local tasks, workers = KEYS[1], KEYS[2]
local group, me, rounds, silence, workers_max = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local is_host = string.sub(me, 1, 5) == 'host:'

-- Returns the task of a pending id; removes a task that is no longer needed from the stream.
local function task_of(id)
  local entry = redis.call('XRANGE', tasks, id, id)[1]
  if entry then
    local task = {}
    for i = 1, #entry[2], 2 do task[entry[2][i]] = entry[2][i + 1] end
    task.key = rounds .. task.round
    if redis.call('HGET', task.key, task.index) == 'posted' then return task end
  end
  redis.call('XACK', tasks, group, id)
  redis.call('XDEL', tasks, id)
end

local function number(task, what)
  return tonumber(redis.call('HGET', task.key, what .. ':' .. task.index) or 0)
end

local function has_failed(task, worker)
  return redis.call('HGET', task.key, 'by:' .. task.index .. ':' .. worker) == 'failed'
end

-- Counts a worker once, however often it failed or fell silent.
local function count(task, worker, what)
  local field = 'by:' .. task.index .. ':' .. worker
  if redis.call('HSETNX', task.key, field, what) == 1 then
    redis.call('HINCRBY', task.key, 'workers:' .. task.index, 1)
  elseif what == 'failed' then
    redis.call('HSET', task.key, field, what)
  end
end

-- Whether a live worker may still try the task. Removes dead workers from the set.
local function others_may_try(task)
  if number(task, 'workers') >= workers_max then return false end
  for _, worker in ipairs(redis.call('SMEMBERS', workers)) do
    if redis.call('EXISTS', workers .. ':' .. worker) == 0 then
      redis.call('SREM', workers, worker)
    elseif not has_failed(task, worker) then
      return true
    end
  end
  return false
end
";

/// ARGV continue with the most tasks to take, and the shortest and longest rest in ms. Returns entries, and the ms until
/// the consumer may try another rested task.
///
/// All pages are read, or a task would wait for as long as older ones are pending. Pending tasks are those that workers
/// hold and those of one round that rest.
const CLAIM_BODY: &str = "
local PAGE = 100
local most, rest_min, rest_max = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local entries, due = {}, rest_max

local function may_try(task)
  if is_host then return number(task, 'host') == 0 or not others_may_try(task) end
  return number(task, 'workers') < workers_max and not has_failed(task, me)
end

local function has_rested(task, idle)
  local attempts = number(task, 'workers') + number(task, 'host')
  local left = math.min(rest_max, rest_min * 2 ^ (attempts - 1)) - idle
  if left > 0 then due = math.min(due, math.ceil(left)) end
  return left <= 0
end

local function look(id, owner, idle)
  local task = task_of(id)
  if not task then return end
  if owner == 'released' then
    if not may_try(task) or not has_rested(task, idle) then return end
  elseif owner ~= me then
    if string.sub(owner, 1, 7) == 'worker:' then count(task, owner, 'silent') end
    if not may_try(task) then return end
  end
  entries[#entries + 1] = redis.call('XCLAIM', tasks, group, me, 0, id)[1]
end

local function look_at_all(idle, ...)
  local from = '-'
  repeat
    local page = redis.call('XPENDING', tasks, group, 'IDLE', idle, from, '+', PAGE, ...)
    for _, pending in ipairs(page) do
      if #entries == most then return end
      look(pending[1], pending[2], pending[3])
    end
    from = #page > 0 and '(' .. page[#page][1]
  until #page < PAGE
end

say_alive(workers, me, silence)
look_at_all(0, 'released')
look_at_all(silence)
return { entries, due }";

/// KEYS continue with events, dead; ARGV with id, reason, most tries of the host. Returns `released`, `buried` or
/// `fenced`.
///
/// Only the host buries: a task is dead once the host itself has failed at it and no worker is left to try it.
const RELEASE_BODY: &str = "
local id, reason, host_tries_max = ARGV[6], ARGV[7], tonumber(ARGV[8])
local pending = redis.call('XPENDING', tasks, group, id, id, 1)[1]
if not pending or pending[2] ~= me then return 'fenced' end
local task = task_of(id)
if not task then return 'fenced' end
if is_host then
  local tries = redis.call('HINCRBY', task.key, 'host:' .. task.index, 1)
  if tries >= host_tries_max and not others_may_try(task) then
    redis.call('XACK', tasks, group, id)
    redis.call('XDEL', tasks, id)
    local letter = redis.call('XADD', KEYS[4], 'MAXLEN', '~', 10000, '*',
      'round', task.round, 'index', task.index, 'note', task.note, 'reason', reason)
    redis.call('HSET', task.key, task.index, 'dead',
      'reason:' .. task.index, reason, 'letter:' .. task.index, letter, 'task:' .. task.index, id)
    redis.call('HSETNX', task.key, 'dead', task.index)
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', 1000, '*', 'round', task.round, 'what', 'dead')
    return 'buried'
  end
else
  count(task, me, 'failed')
end
redis.call('XCLAIM', tasks, group, 'released', 0, id, 'JUSTID')
return 'released'";

/// KEYS tasks, workers; ARGV group, consumer, silence in ms, ids. Returns how many the consumer still holds.
const BEAT_BODY: &str = "
local own = 0
say_alive(KEYS[2], ARGV[2], ARGV[3])
for i = 4, #ARGV do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)
  if #pending > 0 and pending[1][2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
    own = own + 1
  end
end
return own";

/// KEYS tasks, round; ARGV group, consumer, id, index. Removes a task of a round that has ended. If a database that
/// lost its state begins the round again, the task can be posted again.
pub(super) const DISCARD: &str = "
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)[1]
if pending and pending[2] == ARGV[2] then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
  redis.call('XDEL', KEYS[1], ARGV[3])
  if redis.call('HGET', KEYS[2], ARGV[4]) == 'posted' then redis.call('HDEL', KEYS[2], ARGV[4]) end
end
return redis.status_reply('OK')";

/// KEYS tasks, round, dead; ARGV id. Returns 1 if the letter existed.
const REDRIVE_BODY: &str = "
local entry = redis.call('XRANGE', KEYS[3], ARGV[1], ARGV[1])[1]
if not entry then return 0 end
redis.call('XDEL', KEYS[3], ARGV[1])
local task = {}
for i = 1, #entry[2], 2 do task[entry[2][i]] = entry[2][i + 1] end
if redis.call('HGET', KEYS[2], task.index) == 'dead' then
  dig_out(KEYS[2], task.index, 'posted')
  local by = 'by:' .. task.index .. ':'
  for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
    if string.sub(field, 1, #by) == by then redis.call('HDEL', KEYS[2], field) end
  end
  redis.call('HDEL', KEYS[2], 'workers:' .. task.index, 'host:' .. task.index)
  redis.call('XADD', KEYS[1], '*', 'round', task.round, 'index', task.index, 'note', task.note)
end
return 1";

/// KEYS tasks, workers; ARGV group, consumer. Removes a worker, and its consumer if it holds no task.
pub(super) const LEAVE: &str = "
redis.call('SREM', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[2] .. ':' .. ARGV[2])
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if #pending == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
return redis.status_reply('OK')";

pub(super) fn claim() -> String {
    format!("{SAY_ALIVE}{ATTEMPTS}{CLAIM_BODY}")
}

pub(super) fn release() -> String {
    format!("{ATTEMPTS}{RELEASE_BODY}")
}

pub(super) fn beat() -> String {
    format!("{SAY_ALIVE}{BEAT_BODY}")
}

pub(super) fn complete() -> String {
    format!("{DIG_OUT}{COMPLETE_BODY}")
}

pub(super) fn redrive() -> String {
    format!("{DIG_OUT}{REDRIVE_BODY}")
}

/// The command that runs a script with its keys; the caller appends the arguments.
pub(super) fn command(script: &str, keys: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(keys.len()).arg(keys);
    command
}

//! `[ceilings]` of a host's configuration: what its operator lets functions use, whatever a manifest asks for.

use std::fmt::Debug;
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use skein_job::manifest::function;
use skein_runtime::Limits;

// The fields of `function::Limits` stand here again: serde does not support unknown keys to be refused in a table that
// is flattened, and a mistyped ceiling must not be ignored.
/// The highest values that functions' limits may have. A limit that a manifest leaves out is its default or the ceiling,
/// whichever is lower.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ceilings {
    /// Memory of a call in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// Processor time of a call.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Duration>,
    /// Time of a call from start to end, without its waits for a processor.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub wall: Option<Duration>,
    /// Data in MiB that one call into the host may carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostcall_mib: Option<u32>,
    /// Handles that a call holds at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handles: Option<u32>,
    /// Calls of one function that run at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<NonZeroU32>,
    /// Requests for one function that may wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// How long a request may wait.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub queue_wait: Option<Duration>,
    /// What all functions together may use.
    #[serde(skip_serializing_if = "is_default")]
    pub total: TotalCeilings,
}

/// What all functions of a host may use together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TotalCeilings {
    /// Memory in MiB of all calls that run, of the engines that compute for them, and of the compiler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
}

impl Ceilings {
    /// The limits of a function: those that its manifest asks for, otherwise `default`.
    ///
    /// # Errors
    /// The manifest asks for more than the ceiling.
    pub fn limits(&self, function: &str, asked: &function::Limits, default: Limits) -> Result<Limits> {
        let name = |name| Name { function, name };
        let function::Limits { memory_mib, cpu, wall, hostcall_mib, handles, concurrency, queue, queue_wait } = *asked;
        let concurrency = concurrency.map(NonZeroU32::get);
        let concurrency_max = self.concurrency.map(NonZeroU32::get);
        Ok(Limits {
            memory_mib: name("memory_mib").bounded(memory_mib, default.memory_mib, self.memory_mib)?,
            cpu: name("cpu").bounded(cpu, default.cpu, self.cpu)?,
            wall: name("wall").bounded(wall, default.wall, self.wall)?,
            hostcall_mib: name("hostcall_mib").bounded(hostcall_mib, default.hostcall_mib, self.hostcall_mib)?,
            handles: name("handles").bounded(handles, default.handles, self.handles)?,
            concurrency: name("concurrency").bounded(concurrency, default.concurrency, concurrency_max)?,
            queue: name("queue").bounded(queue, default.queue, self.queue)?,
            queue_wait: name("queue_wait").bounded(queue_wait, default.queue_wait, self.queue_wait)?,
        })
    }
}

/// Whether nothing is set.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A limit of a function.
struct Name<'a> {
    function: &'a str,
    name: &'a str,
}

impl Name<'_> {
    fn bounded<T: Copy + Ord + Debug>(&self, asked: Option<T>, default: T, ceiling: Option<T>) -> Result<T> {
        let Some(ceiling) = ceiling else { return Ok(asked.unwrap_or(default)) };
        let Name { function, name } = self;
        match asked {
            Some(asked) if asked > ceiling => bail!(
                "function `{function}` asks for `{name} = {asked:?}`, this host allows at most {ceiling:?}: lower it in \
                 `[function.{function}.limits]`, or raise `{name}` in the host's `[ceilings]`"
            ),
            Some(asked) => Ok(asked),
            None => Ok(default.min(ceiling)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceilings(text: &str) -> Ceilings {
        toml::from_str(text).expect("sound ceilings")
    }

    fn asked(text: &str) -> function::Limits {
        toml::from_str(text).expect("sound limits")
    }

    #[test]
    fn limits_are_asked_for_or_have_a_default_below_the_ceiling() {
        let ceilings = ceilings("memory_mib = 100\ncpu = \"1h\"\nconcurrency = 3\n[total]\nmemory_mib = 900\n");
        let default = Limits::default();
        let limits = ceilings.limits("f", &asked("handles = 5\nmemory_mib = 99"), default).expect("below the ceilings");
        let expected = Limits { memory_mib: 99, handles: 5, concurrency: 3, ..default };
        assert_eq!(limits, expected);
        let limits = ceilings.limits("f", &asked(""), default).expect("below the ceilings");
        assert_eq!((limits.memory_mib, limits.cpu), (100, default.cpu), "the lower of both");
    }

    #[test]
    fn every_limit_above_its_ceiling_is_refused_with_both_values() {
        let low = "memory_mib = 1\ncpu = \"1ms\"\nwall = \"1ms\"\nhostcall_mib = 1\nhandles = 1\nconcurrency = 1\n\
                   queue = 1\nqueue_wait = \"1ms\"\n";
        let ceilings = ceilings(low);
        ceilings.limits("f", &asked(low), Limits::default()).expect("at the ceilings");
        for line in low.lines() {
            let asked = asked(&line.replace("\"1ms\"", "\"2ms\"").replace("= 1", "= 2"));
            let error = ceilings.limits("f", &asked, Limits::default()).expect_err(line).to_string();
            let name = line.split(' ').next().expect("a name");
            for part in [&format!("asks for `{name} = 2"), "at most 1", "`[function.f.limits]`"] {
                assert!(error.contains(part), "{error}");
            }
        }
    }
}

//! The commands, a file for each group. What they take is in [`skein_redis_command::command`].
//!
//! | command | answer |
//! |---|---|
//! | `SKEIN.VERSION` | the version of the grammar |
//! | `SKEIN.SET`, `SKEIN.SETRANGE`, `SKEIN.AGG` | `OK` |
//! | `SKEIN.GET`, `SKEIN.GETRANGE` | a blob, or nil |
//! | `SKEIN.META` | version, length, shape; or nil |
//! | `SKEIN.STAT` | for each key version, length, BLAKE3 hash, whether all is finite; or nil |
//! | `SKEIN.NORM` | the Euclidean norm, or nil |
//! | `SKEIN.ACC` | 1: counted, 0: was counted before |
//! | `SKEIN.AVERAGE` | samples, mean loss |
//! | `SKEIN.APPLY` | the round |
//! | `SKEIN.RESTORESUM` | `OK`; the log of commands sends it |

pub(crate) mod accumulate;
pub(crate) mod aggregate;
pub(crate) mod apply;
pub(crate) mod average;
pub(crate) mod look;
pub(crate) mod panic;
pub(crate) mod tensors;

//! The commands, one file per group. [`skein_redis_command::command`] defines their arguments.
//!
//! | command | answer |
//! |---|---|
//! | `SKEIN.VERSION` | the version of the grammar |
//! | `SKEIN.SET`, `SKEIN.SETRANGE`, `SKEIN.AGG` | `OK` |
//! | `SKEIN.GET`, `SKEIN.GETRANGE` | a blob, or nil |
//! | `SKEIN.META` | version, length, shape; or nil |
//! | `SKEIN.STAT` | for each key version, length, BLAKE3 hash, whether all values are finite; or nil |
//! | `SKEIN.NORM` | the Euclidean norm, or nil |
//! | `SKEIN.ACC` | 1 if the batch was counted now, 0 if it was before or its round is applied |
//! | `SKEIN.AVERAGE` | samples, mean loss |
//! | `SKEIN.APPLY` | the round |
//! | `SKEIN.RESTORESUM` | `OK`; replayed from the command log |

pub(crate) mod accumulate;
pub(crate) mod aggregate;
pub(crate) mod apply;
pub(crate) mod average;
pub(crate) mod look;
pub(crate) mod panic;
pub(crate) mod tensors;

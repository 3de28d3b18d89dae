//! The commands, a file for each group.
//!
//! Numbers are decimal text; a blob is little-endian `f32`. `[x ...]` may be left out, all else stands in this order.
//! A number of keys is from 1 to 1024 and has neither a sign nor leading zeros, which the server would not read.
//!
//! | command | answer |
//! |---|---|
//! | `SKEIN.SET key version blob [dimension ...]` | `OK` |
//! | `SKEIN.SETRANGE key start blob` | `OK` |
//! | `SKEIN.GET key` | the blob, or nil |
//! | `SKEIN.GETRANGE key start count` | a blob, or nil |
//! | `SKEIN.META key` | version, length, shape; or nil |
//! | `SKEIN.STAT key [key ...]` | for each key version, length, BLAKE3 hash, whether all is finite; or nil |
//! | `SKEIN.NORM key` | the Euclidean norm, or nil |
//! | `SKEIN.ACC sum parameters round leaf leaves samples loss blob` | 1: counted, 0: was counted before |
//! | `SKEIN.AVERAGE destination sum round` | samples, mean loss |
//! | `SKEIN.AGG destination version rule faults numkeys key [key ...] [WEIGHTS weight ...]` | `OK` |
//! | `SKEIN.APPLY numstate parameters [slot ...] ROWS numrows row [row ...] round rule faults WEIGHTS n [weight ...] TRAINED n CLIPNORM x\|none CLIPVALUE x\|none OPTIMIZER name constant [constant ...] STEP number learning-rate` | the round |
//! | `SKEIN.RESTORESUM key payload` | `OK`; written by the log of commands, for itself |

pub(crate) mod accumulate;
pub(crate) mod aggregate;
pub(crate) mod apply;
pub(crate) mod average;
pub(crate) mod look;
pub(crate) mod panic;
pub(crate) mod tensors;

use skein_kernels::rule::Rule;
use skein_kernels::rules;

use crate::arguments::Reader;
use crate::failure::Failure;

/// A rule by its name. Weights, which stand elsewhere, are filled in by the caller.
fn rule(reader: &mut Reader<'_>) -> Result<Rule, Failure> {
    let name = reader.text("rule")?;
    let faults: u32 = reader.number("faults")?;
    let kind = rules::named(name).ok_or_else(|| Failure::Syntax("there is no such rule".to_owned()))?;
    Ok(Rule::new(kind, faults))
}

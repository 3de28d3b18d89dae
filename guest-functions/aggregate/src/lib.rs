//! Code that the built-in aggregation functions share: the bindings and the walk over windows of coordinates.
//!
//! A coordinate-wise rule needs only a window of every contribution at a time, so a function aggregates models of any
//! size in the same few megabytes.

/// Bindings of the world `aggregate`.
pub mod bindings {
    #![expect(missing_docs, reason = "generated; the documentation is in wit/")]
    wit_bindgen::generate!({ path: "../../wit", world: "aggregate", pub_export_macro: true });
}

use bindings::skein::train::contributions::{Contribution, Sink};
use skein_kernels::Error as KernelError;
use skein_kernels::rule::Rule;

pub use bindings::exports::skein::train::aggregation::{Error, Guest, Report};
pub use bindings::skein::train::settings;

/// Values of a window over all rows: one megabyte, which fits the second-level cache.
const WINDOW_VALUES: usize = 1 << 18;

/// Aggregates window by window with a coordinate-wise rule.
///
/// # Errors
/// The rule's error, converted to the interface's.
pub fn by_window(contributions: &[&Contribution], out: &Sink, rule: &Rule) -> Result<Report, Error> {
    windows(contributions, |offset, rows| {
        let mut values = vec![0.0; rows[0].len()];
        rule.apply(rows, &mut values)?;
        out.write(offset, &values);
        Ok(())
    })?;
    Ok(Report { rejected: Vec::new() })
}

/// Calls `each` for every window, with its offset and its rows in the order of the contributions.
///
/// # Errors
/// No contribution, or an error of `each`, converted to the interface's.
pub fn windows(
    contributions: &[&Contribution],
    mut each: impl FnMut(u64, &[&[f32]]) -> Result<(), KernelError>,
) -> Result<(), Error> {
    let len = contributions.first().ok_or(Error::TooFew(1))?.len();
    let window = (WINDOW_VALUES / contributions.len()).max(1) as u64;
    let mut offset = 0;
    while offset < len {
        let width = window.min(len - offset) as u32;
        let rows: Vec<Vec<f32>> = contributions.iter().map(|contribution| contribution.read(offset, width)).collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        each(offset, &rows).map_err(refusal)?;
        offset += u64::from(width);
    }
    Ok(())
}

/// Converts a kernel's error to the interface's.
fn refusal(error: KernelError) -> Error {
    match error {
        KernelError::TooFew { needed, .. } => Error::TooFew(needed as u32),
        other => Error::Other(other.to_string()),
    }
}

/// Exports a type that implements [`Guest`] as the component's aggregation function.
#[macro_export]
macro_rules! export {
    ($rule:ident) => {
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::export!($rule with_types_in $crate::bindings);
    };
}

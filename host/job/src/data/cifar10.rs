//! The binary batches of CIFAR-10: a label and 3×32×32 bytes for each image, plane by plane.

use std::path::Path;

use super::{DataError, Inputs, Raw, read_bytes};

const PIXEL_BYTES: usize = 3 * 32 * 32;
const RECORD_BYTES: usize = 1 + PIXEL_BYTES;

/// Reads the batches in the given order.
pub(super) fn read(batches: &[&Path]) -> Result<Raw, DataError> {
    let mut inputs = Vec::new();
    let mut labels = Vec::new();
    for path in batches {
        let bytes = read_bytes(path)?;
        let rest = bytes.len() % RECORD_BYTES;
        if rest != 0 {
            let problem = format!("has {rest} bytes after its last record of {RECORD_BYTES}: it may be truncated");
            return Err(DataError::content(path, problem));
        }
        for record in bytes.chunks(RECORD_BYTES) {
            if record[0] > 9 {
                let problem =
                    format!("has label {} at sample {}, expected a class from 0 to 9", record[0], labels.len());
                return Err(DataError::content(path, problem));
            }
            labels.push(i64::from(record[0]));
            inputs.extend_from_slice(&record[1..]);
        }
    }
    Ok(Raw { inputs: Inputs::Bytes(inputs), shape: vec![3, 32, 32], labels })
}

//! The binary batches of CIFAR-10: a label and 3×32×32 bytes for each image, plane by plane.

use std::path::Path;

use super::contents::{Entry, Source, Use, file_name};
use super::{DataError, Inputs, Raw, read_bytes};

const PIXEL_BYTES: usize = 3 * 32 * 32;
const RECORD_BYTES: usize = 1 + PIXEL_BYTES;

/// Reads the batches in the given order.
pub(super) fn read(batches: &[&Path]) -> Result<Raw, DataError> {
    let mut inputs = Vec::new();
    let mut labels = Vec::new();
    let mut entries = Vec::new();
    for path in batches {
        let bytes = read_bytes(path)?;
        let rest = bytes.len() % RECORD_BYTES;
        if rest != 0 {
            let problem = format!("has {rest} bytes after its last record of {RECORD_BYTES}: it may be truncated");
            return Err(DataError::content(path, problem));
        }
        let shape = vec![(bytes.len() / RECORD_BYTES) as u64, RECORD_BYTES as u64];
        entries.push(Entry { name: file_name(path), ty: "uint8".into(), shape, used_as: Use::Both });
        for record in bytes.chunks(RECORD_BYTES) {
            if record[0] > 9 {
                let problem = format!(
                    "has label {} at sample {}, expected a class from 0 to 9: name the binary version of CIFAR-10, in \
                     which one label precedes each image (in CIFAR-100, two do)",
                    record[0],
                    labels.len()
                );
                return Err(DataError::content(path, problem));
            }
            labels.push(i64::from(record[0]));
            inputs.extend_from_slice(&record[1..]);
        }
    }
    let source = Source { format: "CIFAR-10 binary batches", entries };
    Ok(Raw { inputs: Inputs::Bytes(inputs), shape: vec![3, 32, 32], labels, source })
}

//! The idx format of MNIST: a magic number, the sizes big endian, the values.

use std::path::{Path, PathBuf};

use skein_types::counted;

use super::contents::{Entry, Source, Use, file_name};
use super::{DataError, Inputs, Raw, read_bytes};

/// The type code of unsigned bytes, the only one that data sets of images use.
const UNSIGNED_BYTE: u8 = 8;

/// Reads images and their labels, from `labels` or from the file whose name matches the images'.
pub(super) fn read(images: &Path, labels: Option<&Path>) -> Result<Raw, DataError> {
    let labels = match labels {
        Some(labels) => labels.to_owned(),
        None => labels_of(images)
            .ok_or_else(|| DataError::content(images, "has no file of labels beside it: set `data.labels`"))?,
    };
    let (sizes, bytes) = parse(images)?;
    let (label_sizes, label_bytes) = parse(&labels)?;
    let [count, shape @ ..] = sizes.as_slice() else {
        return Err(DataError::content(images, "has no dimensions"));
    };
    if shape.is_empty() {
        let problem = "holds labels, not images: name the file of the images, such as `train-images-idx3-ubyte`";
        return Err(DataError::content(images, problem));
    }
    if label_sizes != [*count] {
        let expected = counted(*count, "label");
        let fix = if label_sizes.len() > 1 {
            "it holds images, so name the file of their labels"
        } else {
            "it belongs to other images"
        };
        let problem = format!("has sizes {label_sizes:?}, expected {expected} for `{}`: {fix}", images.display());
        return Err(DataError::content(&labels, problem));
    }
    let entry = |path: &Path, sizes: &[u32], used_as| {
        let shape = sizes.iter().copied().map(u64::from).collect();
        Entry { name: file_name(path), ty: "uint8".into(), shape, used_as }
    };
    let entries = vec![entry(images, &sizes, Use::Inputs), entry(&labels, &label_sizes, Use::Labels)];
    let source = Source { format: "idx", entries };
    let labels = label_bytes.into_iter().map(i64::from).collect();
    // Adds the channel that every other image format has.
    let shape = [&[1], shape].concat();
    Ok(Raw { inputs: Inputs::Bytes(bytes), shape, labels, source })
}

/// `train-images-idx3-ubyte` becomes `train-labels-idx1-ubyte`, gzipped or not.
fn labels_of(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?.replace("images", "labels").replace("idx3", "idx1");
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    let candidates = [name.clone(), plain.to_owned(), format!("{plain}.gz")];
    candidates.into_iter().map(|name| images.with_file_name(name)).find(|path| path != images && path.exists())
}

fn parse(path: &Path) -> Result<(Vec<u32>, Vec<u8>), DataError> {
    let mut bytes = read_bytes(path)?;
    let [0, 0, UNSIGNED_BYTE, dimensions, ..] = bytes[..] else {
        return Err(DataError::content(path, "is not an idx file of unsigned bytes"));
    };
    let header = 4 + 4 * usize::from(dimensions);
    let Some(sizes) = bytes.get(4..header) else {
        return Err(DataError::content(path, "ends within its header"));
    };
    let sizes: Vec<u32> =
        sizes.chunks(4).map(|size| u32::from_be_bytes(size.try_into().expect("a chunk of 4 bytes"))).collect();
    let expected = sizes.iter().try_fold(1usize, |count, size| count.checked_mul(*size as usize));
    let actual = bytes.len() - header;
    if expected != Some(actual) {
        return Err(DataError::content(path, format!("has {actual} values, which do not match its sizes {sizes:?}")));
    }
    bytes.drain(..header);
    Ok((sizes, bytes))
}

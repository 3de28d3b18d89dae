//! NumPy's `.npz`: one array of inputs and one of labels.

use std::io::{Read, Seek};
use std::path::Path;

use npyz::{Deserialize, NpyFile, Order};
use skein_types::counted;
use zip::ZipArchive;

use super::contents::{Entry, Source, Use};
use super::{DataError, Inputs, Raw};

/// Common names of the two arrays, the more specific first.
const INPUTS: [&str; 6] = ["x_train", "x", "X", "images", "data", "input"];
const LABELS: [&str; 6] = ["y_train", "y", "Y", "labels", "target", "label"];

/// Reads the file; the scale is 255 for bytes and 1 for other types.
pub(super) fn read(path: &Path) -> Result<(Raw, f32), DataError> {
    let file = std::fs::File::open(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let mut archive = ZipArchive::new(std::io::BufReader::new(file))
        .map_err(|error| DataError::content(path, format!("is not a complete `.npz` file: {error}")))?;
    let names: Vec<String> =
        archive.file_names().flatten().filter_map(|name| Some(name.strip_suffix(".npy")?.to_owned())).collect();
    let find = |what: &str, candidates: [&'static str; 6]| {
        let found = candidates.into_iter().find(|name| names.iter().any(|present| present == name));
        let problem = || format!("has arrays {names:?}, and none is named as {what}: name it one of {candidates:?}");
        found.ok_or_else(|| DataError::content(path, problem()))
    };
    let inputs = find("inputs", INPUTS)?;
    let labels = find("labels", LABELS)?;
    let source = source(&mut archive, &names, [inputs, labels]);
    // Before the types: labels of another shape need another fix than labels of another type.
    check_shapes(&source, [inputs, labels]).map_err(|problem| DataError::content(path, problem))?;
    let label_name = labels;
    let (shape, inputs) = array(&mut archive, path, inputs)?;
    let (_, labels) = array(&mut archive, path, labels)?;
    let labels: Option<Vec<i64>> = match labels {
        Array::Bytes(values) => Some(values.into_iter().map(i64::from).collect()),
        Array::Integers(values) => Some(values),
        Array::Floats(_) => None,
    };
    let labels = labels.ok_or_else(|| {
        let problem = format!(
            "has labels `{label_name}` of floating-point numbers, expected the class of each sample as a whole number from \
             0: save `{label_name}.astype(np.int64)`"
        );
        DataError::content(path, problem)
    })?;
    // A column of numbers is a sample of one feature.
    let sample_shape = if shape.len() < 2 { vec![1] } else { shape[1..].to_vec() };
    let (inputs, scale) = match inputs {
        Array::Bytes(values) => (Inputs::Bytes(values), 255.0),
        Array::Floats(values) => (Inputs::Floats(values), 1.0),
        Array::Integers(values) => (Inputs::Floats(values.into_iter().map(|value| value as f32).collect()), 1.0),
    };
    Ok((Raw { inputs, shape: sample_shape, labels, source }, scale))
}

/// Checks that there is one label for each sample; a problem is worded to follow the path.
fn check_shapes(source: &Source, names: [&str; 2]) -> Result<(), String> {
    let entry = |name| source.entries.iter().find(|entry| entry.name == name && !entry.ty.is_empty());
    let [Some(inputs), Some(labels)] = names.map(entry) else {
        // A header that cannot be read is reported with the values.
        return Ok(());
    };
    let Entry { name, shape: labels, .. } = labels;
    let inputs = &inputs.shape;
    let Some(count) = inputs.first() else { return Err("has inputs without a dimension".to_owned()) };
    if labels.iter().product::<u64>() == *count {
        return Ok(());
    }
    let is_one_hot = labels.len() == 2 && labels[0] == *count;
    let fix = if is_one_hot { format!(": if they are one-hot, save `{name}.argmax(1)`") } else { String::new() };
    Err(format!(
        "has inputs of shape {inputs:?} for labels of shape {labels:?}, expected {}, one for each sample{fix}",
        counted(*count, "label")
    ))
}

/// All arrays of the file, of which `used` are the inputs and the labels.
fn source<R: Read + Seek>(archive: &mut ZipArchive<R>, names: &[String], used: [&str; 2]) -> Source {
    let entry = |name: &String| {
        // Whether an array that is not used can be read does not matter.
        let header = archive.by_name(&format!("{name}.npy")).ok().and_then(|member| NpyFile::new(member).ok());
        let (ty, shape) = header.map_or_else(Default::default, |file| (type_name(&file), file.shape().to_vec()));
        let used_as = match used {
            [inputs, _] if name == inputs => Use::Inputs,
            [_, labels] if name == labels => Use::Labels,
            _ => Use::Nothing,
        };
        Entry { name: name.clone(), ty, shape, used_as }
    };
    Source { format: "NumPy `.npz`", entries: names.iter().map(entry).collect() }
}

/// NumPy's short name of the array's type, such as `f4`.
fn type_name<R: Read>(file: &NpyFile<R>) -> String {
    file.dtype().descr().trim_matches(|c| matches!(c, '\'' | '<' | '|' | '=')).to_owned()
}

enum Array {
    Bytes(Vec<u8>),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
}

fn array<R: Read + Seek>(archive: &mut ZipArchive<R>, path: &Path, name: &str) -> Result<(Vec<u32>, Array), DataError> {
    let corrupt = |error: std::io::Error| DataError::content(path, format!("has a corrupt array `{name}`: {error}"));
    let member = archive.by_name(&format!("{name}.npy")).map_err(|error| corrupt(error.into()))?;
    let file = NpyFile::new(member).map_err(corrupt)?;
    if file.order() != Order::C {
        return Err(DataError::content(
            path,
            format!("has `{name}` in Fortran order: save it with `np.ascontiguousarray`"),
        ));
    }
    let shape = file.shape().iter().map(|size| u32::try_from(*size)).collect::<Result<_, _>>();
    let shape = shape.map_err(|_| DataError::content(path, format!("has `{name}` with a dimension above 2^32")))?;
    let dtype = file.dtype().descr();
    let array = match type_name(&file).as_str() {
        "u1" => Array::Bytes(values(file).map_err(corrupt)?),
        "i8" => Array::Integers(values(file).map_err(corrupt)?),
        "i4" => Array::Integers(values::<i32, _>(file).map_err(corrupt)?.into_iter().map(i64::from).collect()),
        "f4" => Array::Floats(values(file).map_err(corrupt)?),
        "f8" => Array::Floats(values::<f64, _>(file).map_err(corrupt)?.into_iter().map(|value| value as f32).collect()),
        ty => {
            let fix = if ty.starts_with(['U', 'S']) {
                format!("number the names, and save `np.unique({name}, return_inverse=True)[1]`")
            } else {
                format!("save `{name}.astype(np.float32)` for inputs, and `{name}.astype(np.int64)` for labels")
            };
            let problem = format!("has `{name}` of type {dtype}, expected u1, i4, i8, f4 or f8, little endian: {fix}");
            return Err(DataError::content(path, problem));
        }
    };
    Ok((shape, array))
}

fn values<T: Deserialize, R: Read>(file: NpyFile<R>) -> std::io::Result<Vec<T>> {
    file.into_vec()
}

//! Every data format: files are written here and read back.

use std::io::Write;
use std::path::Path;

use npyz::WriterBuilder;
use skein_job::data::Dataset;
use skein_job::manifest::Data;

use crate::harness::{Place, root};

fn load(place: &Place, name: &str, options: Data) -> Dataset {
    Dataset::load(&place.path(name), &options).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Input and label of one sample.
fn sample(dataset: &Dataset, index: u32) -> (Vec<f32>, i64) {
    let batch = dataset.batch(&[index]);
    assert_eq!((batch.labels.len(), &batch.shape[..]), (1, dataset.shape()));
    (batch.inputs, batch.labels[0])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn idx_files_are_read_plain_and_gzipped_alone_and_in_a_folder() {
    let place = Place::new();
    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2][..], &[0, 255, 51, 102]].concat();
    let labels = [0, 0, 8, 1, 0, 0, 0, 2, 7, 3];
    place.write("plain/t-images-idx3-ubyte", &images).write("plain/t-labels-idx1-ubyte", labels);
    place.write("packed/t-images-idx3-ubyte.gz", gzip(&images));
    place.write("packed/t-labels-idx1-ubyte.gz", gzip(&labels));
    place.write("odd/pictures.idx", &images).write("odd/answers.idx", labels);
    for name in ["plain", "packed", "plain/t-images-idx3-ubyte", "packed/t-images-idx3-ubyte.gz"] {
        let dataset = load(&place, name, Data::default());
        assert_eq!((dataset.len(), dataset.shape(), dataset.classes()), (2, &[1, 1, 2][..], 8), "{name}");
        assert_eq!(sample(&dataset, 0), (vec![0.0, 1.0], 7));
        assert_eq!(sample(&dataset, 1), (vec![0.2, 0.4], 3));
    }
    let options = Data { labels: Some(place.path("odd/answers.idx")), classes: Some(10), ..Data::default() };
    let dataset = load(&place, "odd/pictures.idx", options);
    assert_eq!((sample(&dataset, 0).1, dataset.classes()), (7, 10));
}

#[test]
fn cifar10_batches_of_a_folder_follow_one_another() {
    let place = Place::new();
    let record = |label: u8, value: u8| [&[label][..], &[value; 3072]].concat();
    place.write("c/data_batch_1.bin", [record(3, 0), record(9, 51)].concat());
    place.write("c/data_batch_2.bin", record(1, 255)).write("c/test_batch.bin", record(5, 1));
    let dataset = load(&place, "c", Data::default());
    assert_eq!((dataset.len(), dataset.shape(), dataset.classes()), (3, &[3, 32, 32][..], 10));
    assert_eq!((0..3).map(|index| sample(&dataset, index).1).collect::<Vec<_>>(), [3, 9, 1]);
    assert_eq!(sample(&dataset, 2).0[0], 1.0);
    assert_eq!(load(&place, "c/test_batch.bin", Data::default()).len(), 1);
}

#[test]
fn csv_is_read_with_and_without_heading() {
    let place = Place::new();
    place.write("a.csv", "0.5, 1, 2\n-1,2,0\n").write("b.csv", "kind,x,y\n2,0.5,1\n0.0,-1,2\n");
    for (name, column) in [("a.csv", None), ("b.csv", Some("kind".to_owned()))] {
        let dataset = load(&place, name, Data { label_column: column, ..Data::default() });
        assert_eq!((dataset.len(), dataset.shape(), dataset.classes()), (2, &[2][..], 3), "{name}");
        assert_eq!(sample(&dataset, 0), (vec![0.5, 1.0], 2));
        assert_eq!(sample(&dataset, 1), (vec![-1.0, 2.0], 0));
    }
    let missing = Data { label_column: Some("knid".into()), ..Data::default() };
    let error = Dataset::load(&place.path("b.csv"), &missing).unwrap_err().to_string();
    assert!(error.contains("has no column `knid`; did you mean `kind`?"), "{error}");
}

/// One array in NumPy's `.npy` format.
pub(crate) fn npy<T: npyz::AutoSerialize + Copy>(shape: &[u64], values: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd().unwrap();
    writer.extend(values.iter().copied()).unwrap();
    writer.finish().unwrap();
    bytes
}

/// An archive of arrays, as `numpy.savez` writes it, or deflated as `numpy.savez_compressed` does.
pub(crate) fn npz<const N: usize>(method: zip::CompressionMethod, arrays: [(&str, Vec<u8>); N]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(&bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[test]
fn npz_archives_are_read_by_the_usual_array_names() {
    use zip::CompressionMethod::{Deflated, Stored};
    let place = Place::new();
    let floats = [("x", npy(&[2, 2], &[0.5f32, 1.0, -1.0, 2.0])), ("y", npy(&[2], &[1i64, 0]))];
    let bytes = [("images", npy(&[2, 1, 2], &[0u8, 255, 51, 102])), ("labels", npy(&[2], &[1u8, 0]))];
    let wrong = [("x", npy(&[3, 1], &[0.5f64, 1.0, 2.0])), ("y", npy(&[2], &[1i32, 0]))];
    place.write("floats.npz", npz(Stored, floats)).write("bytes.npz", npz(Deflated, bytes));
    place.write("wrong.npz", npz(Deflated, wrong));

    let dataset = load(&place, "floats.npz", Data::default());
    assert_eq!((dataset.shape(), sample(&dataset, 1)), (&[2][..], (vec![-1.0, 2.0], 0)));
    let dataset = load(&place, "bytes.npz", Data::default());
    assert_eq!((dataset.shape(), sample(&dataset, 1)), (&[1, 2][..], (vec![0.2, 0.4], 0)));
    let error = Dataset::load(&place.path("wrong.npz"), &Data::default()).unwrap_err().to_string();
    assert!(error.contains("has inputs of shape [3, 1] for labels of shape [2]"), "{error}");
}

#[test]
fn the_scale_can_be_set() {
    let place = Place::new();
    place.write("a.csv", "10,5,0\n");
    let dataset = load(&place, "a.csv", Data { scale: Some(10.0), ..Data::default() });
    assert_eq!(sample(&dataset, 0).0, [1.0, 0.5]);
}

#[test]
fn the_digits_come_with_the_program() {
    let dataset = Dataset::load(Path::new("builtin:digits"), &Data::default()).unwrap();
    assert_eq!((dataset.len(), dataset.shape(), dataset.classes()), (1797, &[1, 8, 8][..], 10));
    let (pixels, label) = sample(&dataset, 0);
    assert_eq!((pixels[2], label), (5.0 / 16.0, 0));
}

/// Byte or number `index` of sample `sample` in the files of `tests/data/formats`.
fn made(sample: usize, index: usize, is_byte: bool) -> f32 {
    if is_byte { ((31 * sample + 7 * index) % 256) as f32 / 255.0 } else { sample as f32 - index as f32 / 4.0 }
}

/// The files were written by Python's own modules and by NumPy.
#[test]
fn files_of_the_usual_tools_are_read() {
    for (name, samples, shape, is_byte) in [
        ("mnist", 4, &[1, 5, 6][..], true),
        ("cifar10", 3, &[3, 32, 32], true),
        ("table.csv", 4, &[6], false),
        ("numbers.npz", 4, &[2, 3], false),
        ("images.npz", 4, &[5, 6], true),
    ] {
        let path = root().join("tests/data/formats").join(name);
        let dataset = Dataset::load(&path, &Data::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((dataset.len(), dataset.shape()), (samples, shape), "{name}");
        for index in 0..samples {
            let (inputs, label) = sample(&dataset, index as u32);
            let expected: Vec<f32> = (0..inputs.len()).map(|at| made(index, at, is_byte)).collect();
            assert_eq!((inputs, label), (expected, index as i64 % 3), "sample {index} of {name}");
        }
    }
}

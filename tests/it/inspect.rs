//! `skein data inspect`: what is in the files, as the loader of training reads them.

use serde_json::{Value, json};

use crate::formats::{npy, npz};
use crate::harness::Place;

/// The data sets that an inspection prints.
fn inspect(place: &Place, arguments: &[&str]) -> Vec<Value> {
    let printed = place.json(&[&["data", "inspect"], arguments].concat());
    printed["data_sets"].as_array().unwrap().clone()
}

fn entry(name: &str, ty: &str, shape: &[u64], used_as: &str) -> Value {
    json!({ "name": name, "type": ty, "shape": shape, "used_as": used_as })
}

/// Six samples of two values: a table, and images with their labels.
fn write_samples(place: &Place) {
    place.write("table.csv", "kind,height,width\n0,1,2\n1,3,5\n2,4,6\n1,0,-1\n1,1,1\n0,2,0\n");
    let head = |dimensions: u8, sizes: &[u32]| {
        let sizes: Vec<u8> = sizes.iter().flat_map(|size| size.to_be_bytes()).collect();
        [&[0, 0, 8, dimensions][..], &sizes].concat()
    };
    place.write("images.idx", [head(3, &[2, 1, 2]), vec![0, 255, 51, 102]].concat());
    place.write("answers.idx", [head(1, &[2]), vec![2, 0]].concat());
}

#[test]
fn the_parts_and_figures_of_a_data_set_are_printed() {
    let place = Place::new();
    write_samples(&place);
    let tables = inspect(&place, &["table.csv", "--label-column", "kind"]);
    let expected = json!({
        "purpose": "data",
        "path": "table.csv",
        "format": "CSV",
        "entries": [
            entry("kind", "number", &[6], "labels"),
            entry("height", "number", &[6], "inputs"),
            entry("width", "number", &[6], "inputs"),
        ],
        "samples": 6,
        "shape": [2],
        "classes": [2, 3, 1],
        "min": -1.0,
        "max": 6.0,
        "mean": 2.0,
        "scale": 1.0,
    });
    assert_eq!(tables, [expected]);

    let images = &inspect(&place, &["images.idx", "--labels", "answers.idx"])[0];
    assert_eq!(images["entries"][0], entry("images.idx", "uint8", &[2, 1, 2], "inputs"));
    assert_eq!(images["entries"][1], entry("answers.idx", "uint8", &[2], "labels"));
    assert_eq!(images["classes"], json!([1, 0, 1]));
    assert_eq!(
        (&images["mean"], &images["scale"], &images["shape"]),
        (&json!(102.0), &json!(255.0), &json!([1, 1, 2]))
    );

    let text = place.run(&["data", "inspect", "table.csv", "--label-column", "kind"]).stdout;
    assert_eq!(
        text,
        "data: `table.csv`, CSV\n  kind  number [6]  labels\n  height  number [6]  inputs\n  width  number [6]  inputs\n\
         samples  6 of shape [2]\nvalues   -1 to 6, mean 2.0000; training divides them by 1\nclasses  3\n  \
         0      2 samples\n  1      3 samples\n  2      1 sample\n"
    );
    let text = place.run(&["data", "inspect", "builtin:digits"]).stdout;
    assert!(text.starts_with("data: `builtin:digits`, the digits that come with the program\n"), "{text}");
    assert!(text.contains("samples  1797 of shape [1, 8, 8]\n") && text.contains("divides them by 16\n"), "{text}");
}

#[test]
fn arrays_that_training_does_not_read_are_named_as_well() {
    let place = Place::new();
    let arrays = [
        ("x", npy(&[3, 2], &[0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0])),
        ("mask", npy(&[2], &[0.0f32, 1.0])),
        ("y", npy(&[3], &[1i64, 0, 1])),
        ("broken", vec![]),
    ];
    place.write("a.npz", npz(zip::CompressionMethod::Stored, arrays));
    let entries = inspect(&place, &["a.npz"])[0]["entries"].as_array().unwrap().clone();
    assert_eq!(
        entries,
        [
            entry("x", "f4", &[3, 2], "inputs"),
            entry("mask", "f4", &[2], "nothing"),
            entry("y", "i8", &[3], "labels"),
            entry("broken", "", &[], "nothing"),
        ]
    );
}

#[test]
fn all_data_sets_of_a_job_are_inspected() {
    let place = Place::new();
    place.write("table.csv", "1,2,6\n3,5,0\n").write("peer/own.csv", "1,2,0\n3,4,1\n");
    place.job_on(
        "local = [\"peer\"]\nsource = \"table.csv\"\ntest = \"test.csv\"\nclasses = 7\nscale = 2.0\n",
        "[train]\npeers = 2\nbyzantine = 0\n",
    );
    place.write("test.csv", "9,9,3\n");
    let sets = inspect(&place, &["--from", "skein.toml"]);
    let purposes: Vec<&str> = sets.iter().map(|set| set["purpose"].as_str().unwrap()).collect();
    assert_eq!(purposes, ["data of peer 0", "shared data", "test data"]);
    assert_eq!(sets[2]["classes"], json!([0, 0, 0, 1, 0, 0, 0]));
    assert!(sets.iter().all(|set| set["scale"] == 2.0));
    // Nobody reads the shared data if every peer has a folder.
    let sets = inspect(&place, &["--from", "skein.toml", "--set", "train.peers=1"]);
    assert_eq!(sets.len(), 2);
}

#[test]
fn an_inspection_needs_one_thing_to_inspect() {
    let place = Place::new();
    place.job("");
    for (arguments, expected) in [
        (&[][..], "<PATH>"),
        (&["a.csv", "--from", "skein.toml"], "'[PATH]' cannot be used with '--from <FILE>'"),
        (&["a.csv", "--set", "data.scale=2"], "'[PATH]' cannot be used with '--set <KEY=VALUE>'"),
        (&["--from", "skein.toml", "--labels", "b"], "cannot be used with"),
        (&["nowhere"], "failed to read `nowhere`: No such file"),
        (&["--from", "nowhere"], "failed to read the manifest `nowhere`"),
        (&["skein.toml"], "`skein.toml` has no known format: idx (`…idx3-ubyte`), CIFAR-10 `.bin`, `.csv` or `.npz`"),
        (&["."], "`.` holds no file of a known format"),
    ] {
        let error = place.fails(&[&["data", "inspect"], arguments].concat());
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

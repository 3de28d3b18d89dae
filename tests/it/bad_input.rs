//! Bad functions and bad data: an error that names the cause, and no lost data.

use std::fs;

use serde_json::Value;

use crate::formats::{npy, npz};
use crate::harness::{Place, dist};

const ROUNDS: &str = "[train]\nrounds = 3\n";

/// Writes a job whose gradient function `mine` is the probe with this behaviour.
fn probe(place: &Place, behaviour: &str, limits: &str) {
    fs::copy(dist("gradient-probe"), place.path("mine.wasm")).unwrap();
    place.job(&format!(
        "{ROUNDS}gradient = \"mine\"\n[function.mine]\nsource = \"mine.wasm\"\n[function.mine.limits]\n{limits}\
         [function.mine.settings]\nbehaviour = \"{behaviour}\"\n"
    ));
}

#[test]
fn a_guest_that_misbehaves_ends_the_run_with_its_name_and_the_reason() {
    for (behaviour, expected) in [
        ("loop", "function `mine` hit its limit `cpu = 100ms`"),
        ("allocate", "function `mine` hit its limit `memory_mib = 32`"),
        ("handles", "function `mine` hit its limit `handles = 10000`"),
        ("trap", "function `mine` trapped"),
        ("recurse", "function `mine` trapped: wasm trap: call stack exhausted"),
        ("refuse", "function `mine` refused its input: asked to refuse"),
        ("wrong-name", "`layers.0.weight?` is not a parameter of the model"),
        ("wrong-shape", "has shape [10, 64, 1], expected [10, 64]"),
        ("wrong-type", "has type I32"),
        ("missing", "the gradient of `layers.0.bias` is missing"),
        ("nan", "function `mine` returned a bad result: the gradient of `layers.0.weight` is not finite"),
        ("nan-loss", "function `mine` returned a bad result: the loss is NaN"),
    ] {
        let place = Place::new();
        let cpu = if behaviour == "loop" { "100ms" } else { "60s" };
        probe(&place, behaviour, &format!("cpu = \"{cpu}\"\nmemory_mib = 32\n"));
        let error = place.fails(&["train"]);
        assert!(error.contains(expected), "{behaviour}: {error}");
    }
}

/// Unscaled data: every gradient is finite, and their sum is not. The peer was once treated as a liar.
#[test]
fn a_sum_that_overflows_is_refused_before_it_is_announced() {
    let place = Place::new();
    let row = |index: u32| format!("{}3e37,2.9e37,{}\n", if index.is_multiple_of(2) { "-" } else { "" }, index / 2 % 2);
    place.write("huge.csv", (0..400).map(row).collect::<String>());
    place.job_on("source = \"huge.csv\"\n", "[model]\nnetwork = \"mlp\"\n[train]\nrounds = 3\n");
    let error = place.fails(&["train"]);
    assert!(error.contains("failed to compute round 1: the gradients are finite, but their sum"), "{error}");
    assert!(!error.contains("accused"), "{error}");
}

#[test]
fn divergence_is_reported_with_round_peer_loss_and_a_way_out() {
    let place = Place::new();
    place.job("[model]\nhidden = [16]\n[train]\nrounds = 9\nlearning_rate = 1e30\n");
    let error = place.fails(&["train"]);
    for words in
        ["peer ", " failed to compute round 2 (the last loss was 2.", "the loss is NaN", "lower `train.learning_rate`"]
    {
        assert!(error.contains(words), "{error}");
    }
}

/// A run whose function turns bad keeps its last checkpoint.
#[test]
fn a_failed_run_keeps_its_checkpoint() {
    let place = Place::new();
    place.job(&format!("{ROUNDS}gradient = \"gradient-mlp\"\n"));
    place.json(&["train", "--out", "run"]);
    let before = fs::read(place.path("run/checkpoint.safetensors")).unwrap();
    probe(&place, "trap", "");
    assert!(place.fails(&["train", "--out", "run", "--resume"]).contains("checkpoint of another job"));
    assert_eq!(fs::read(place.path("run/checkpoint.safetensors")).unwrap(), before);
}

#[test]
fn files_that_are_not_functions_are_refused_before_training_starts() {
    let mlp = fs::read(dist("gradient-mlp")).unwrap();
    for (what, bytes, expected) in [
        (
            "a core module",
            fs::read(dist("kernel-digest")).unwrap(),
            "function `mine` is a core module, not a component",
        ),
        ("another world", fs::read(dist("aggregate-mean")).unwrap(), "does not implement the world `gradient`"),
        ("half a file", mlp[..mlp.len() / 2].to_vec(), "function `mine` is not a valid component: it may be truncated"),
        ("nothing", vec![], "function `mine` is not WebAssembly"),
        ("text", b"fn main() {}".to_vec(), "function `mine` is not WebAssembly"),
    ] {
        let place = Place::new();
        place.job(&format!("{ROUNDS}gradient = \"mine\"\n[function.mine]\nsource = \"mine.wasm\"\n"));
        place.write("mine.wasm", bytes);
        let error = place.fails(&["train", "--out", "run"]);
        assert!(error.contains(expected), "{what}: {error}");
        assert!(!place.path("run").exists(), "nothing was begun");
    }
}

#[test]
fn a_missing_function_is_named_with_the_fix() {
    let place = Place::new();
    let function = "[train]\ngradient = \"mine\"\n[function.mine]\nsource = \"mine.wasm\"\n";
    place.job(&format!("{function}[function.mine.build]\ncommand = \"cargo build\"\n"));
    let error = place.fails(&["train"]);
    assert!(
        error.contains("failed to read function `mine`") && error.contains("build it with `cargo build`"),
        "{error}"
    );
    place.job(&function.replace("mine.wasm", "builtin:gradient-mpl"));
    assert!(place.fails(&["train"]).contains("did you mean `gradient-mlp`?"));
    place.write("mine.wasm", fs::read(dist("gradient-mlp")).unwrap());
    place.job(&format!("{function}digest = \"sha256:00\"\n"));
    let error = place.fails(&["train"]);
    assert!(error.contains("function `mine` has the digest") && error.contains("requires 00"), "{error}");
}

#[test]
fn bad_data_is_named_with_its_position() {
    let gzip = |bytes: &[u8]| {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let idx = |sizes: &[u32], values: usize| {
        let sizes: Vec<u8> = sizes.iter().flat_map(|size| size.to_be_bytes()).collect();
        [&[0, 0, 8, (sizes.len() / 4) as u8], &sizes[..], &vec![1; values]].concat()
    };
    let digits = gzip("1,2,0\n".repeat(500).as_bytes());
    for (file, bytes, expected) in [
        ("a.csv", b"".to_vec(), "is empty"),
        ("a.csv", b"\n\n".to_vec(), "holds no samples"),
        ("a.csv", b"x,y,label\n".to_vec(), "holds no samples"),
        ("a.csv", b"1,2,0\n1,oops,1\n".to_vec(), "line 2, column 2: `oops` is not a number"),
        ("a.csv", b"1,2,0\n1,2\n".to_vec(), "is not a table"),
        ("a.csv", b"1,2,0\n1,2,-1\n".to_vec(), "has label -1 at sample 1"),
        ("a.csv", b"1,2,0\n1,2,0.5\n".to_vec(), "label `0.5` is not a class index"),
        ("a.csv", b"1,2,0\n1,nan,1\n".to_vec(), "has a value that is not finite in sample 1"),
        ("a.csv.gz", digits[..digits.len() / 2].to_vec(), "is not a complete gzip file"),
        ("a.bin", vec![0; 3073 + 5], "has 5 bytes after its last record"),
        ("a.bin", vec![10; 3073], "has label 10 at sample 0"),
        ("a.npz", b"PK rubbish".to_vec(), "is not a complete `.npz` file"),
        ("a.parquet", b"PAR1".to_vec(), "has no known format"),
        ("a.npy", npy(&[2], &[1i64, 0]), "so save both: `np.savez(\"data.npz\", x=inputs, y=labels)`"),
        ("a-images-idx3-ubyte", idx(&[2, 2, 2], 8), "has no file of labels beside it"),
    ] {
        let place = Place::new();
        place.write(file, bytes).job_on(&format!("source = \"{file}\"\n"), ROUNDS);
        let error = place.fails(&["train", "--out", "run"]);
        assert!(error.contains(expected) && error.contains(file), "{file}: {error}");
        assert!(!place.path("run").exists(), "nothing was begun");
        assert_eq!(place.fails(&["data", "inspect", file]), error, "an inspection reads as training does");
    }
    for (images, labels, expected) in [
        (idx(&[2, 2, 2], 7), idx(&[2], 2), "a-images-idx3-ubyte` has 7 values, which do not match its sizes [2, 2, 2]"),
        (idx(&[2, 2, 2], 8), idx(&[3], 3), "a-labels-idx1-ubyte` has sizes [3], expected 2 labels"),
        (b"\0\0\x0d\x01".to_vec(), idx(&[2], 2), "a-images-idx3-ubyte` is not an idx file of unsigned bytes"),
        (b"\0\0\x08\x03\0\0".to_vec(), idx(&[2], 2), "a-images-idx3-ubyte` ends within its header"),
    ] {
        let place = Place::new();
        place.write("a-images-idx3-ubyte", images).write("a-labels-idx1-ubyte", labels);
        place.job_on("source = \"a-images-idx3-ubyte\"\n", ROUNDS);
        let error = place.fails(&["train"]);
        assert!(error.contains(expected), "{error}");
    }
}

/// Whole numbers were once asked for first, and one-hot labels of whole numbers refused.
#[test]
fn labels_of_another_shape_or_type_are_refused_with_the_whole_fix() {
    let place = Place::new();
    let archive =
        |labels: Vec<u8>| npz(zip::CompressionMethod::Stored, [("x", npy(&[3, 2], &[0.5f32; 6])), ("y", labels)]);
    let one_hot = "has inputs of shape [3, 2] for labels of shape [3, 2], expected 3 labels, one for each sample: if they are \
                   one-hot, save `y.argmax(1)`";
    for (labels, expected) in [
        (npy(&[3, 2], &[0.0f32, 1.0, 1.0, 0.0, 0.0, 1.0]), one_hot),
        (npy(&[3, 2], &[false, true, true, false, false, true]), one_hot),
        (npy(&[3, 2], &[0u8, 1, 1, 0, 0, 1]), one_hot),
        (npy(&[3], &[0.0f32, 1.0, 1.0]), "save `y.astype(np.int64)`"),
        (
            npy(&[3], &[0u16, 1, 1]),
            "has `y` of type '<u2', expected u1, i4, i8, f4 or f8, little endian: save `y.astype(",
        ),
    ] {
        place.write("a.npz", archive(labels)).job_on("source = \"a.npz\"\n", ROUNDS);
        let error = place.fails(&["train"]);
        assert!(error.contains(expected) && error.contains("a.npz` has "), "{error}");
    }
}

/// They trained without a word, and the model had outputs that nothing trained.
#[test]
fn classes_without_a_sample_are_a_warning() {
    let place = Place::new();
    let rows =
        |labels: &[u32]| labels.iter().map(|label| format!("{label},2,{label}\n")).collect::<String>().repeat(40);
    place.write("from-1.csv", rows(&[1, 2, 3])).write("stray.csv", rows(&[0, 1, 9])).write("good.csv", rows(&[0, 1]));
    let job = "[model]\nnetwork = \"mlp\"\n[train]\nrounds = 1\nbatch_size = 2\n";
    for (file, classes, expected) in [
        (
            "from-1.csv",
            "",
            Some(
                "from-1.csv`: the labels go from 1 to 3, so there are 4 classes, but no sample of class 0: subtract 1 from each label, or \
                 set `data.classes = 4` if the model is to have so many\n",
            ),
        ),
        (
            "stray.csv",
            "",
            Some(
                "stray.csv`: the labels go from 0 to 9, so there are 10 classes, but no sample of class 2 to 8: correct",
            ),
        ),
        ("stray.csv", "classes = 10\n", None),
        ("good.csv", "", None),
    ] {
        place.job_on(&format!("source = \"{file}\"\n{classes}"), job);
        let trained = place.run(&["train", "--quiet"]);
        assert!(trained.success, "{}", trained.stderr);
        let checked = place.json(&["model", "check", "--from", "skein.toml"])["warnings"].clone();
        let warnings = checked.as_array().unwrap();
        assert_eq!(warnings.len(), usize::from(expected.is_some()), "{file}: {warnings:?}");
        assert_eq!(trained.stderr.matches("warning: ").count(), warnings.len(), "{file}: {}", trained.stderr);
        if let Some(expected) = expected {
            assert!(trained.stderr.contains(expected), "{file}: {}", trained.stderr);
            assert!(warnings[0].as_str().unwrap().contains(expected.trim_end()), "{file}: {warnings:?}");
        }
    }
    let text = place.run(&["data", "inspect", "stray.csv"]).stdout;
    assert!(text.contains("\nclasses  10, without a sample: 2 to 8\n"), "{text}");
    // A folder that lacks a class is no problem if another has it.
    place.write("a/a.csv", rows(&[0, 2])).write("b/b.csv", rows(&[1, 2]));
    place.job_on("local = [\"a\", \"b\"]\n", &format!("{job}peers = 2\nbyzantine = 0\n"));
    let trained = place.run(&["train", "--quiet"]);
    assert!(trained.success && trained.stderr.is_empty(), "{}", trained.stderr);
    place.write("b/b.csv", rows(&[0, 2]));
    let warned = place.run(&["train", "--quiet"]).stderr;
    assert!(
        warned.starts_with(
            "warning: `a`, `b`: the labels go from 0 to 2, so there are 3 classes, but no sample of class 1: "
        ),
        "{warned}"
    );
}

#[test]
fn too_few_samples_and_wrong_labels_are_refused() {
    let place = Place::new();
    place.write("a.csv", "1,2,0\n2,1,3\n1,1,1\n".repeat(10));
    place.job_on("source = \"a.csv\"\nclasses = 3\n", ROUNDS);
    let error = place.fails(&["train"]);
    assert!(error.contains("a.csv` has label 3 at sample 1, expected a class from 0 to 2"), "{error}");

    place.write("a.csv", "1,2,0\n2,1,1\n1,1,0\n").job_on("source = \"a.csv\"\n", ROUNDS);
    let error = place.fails(&["train"]);
    assert!(error.contains("4 peers share the 2 training samples of `") && error.contains("a.csv`"), "{error}");

    place.job_on("source = \"a.csv\"\ntest_samples = 3\n", ROUNDS);
    assert!(place.fails(&["train"]).contains("nothing is left to train on"));

    place.write("two/a.csv", "1,2,0\n").write("two/b.csv", "1,2,0\n").job_on("source = \"two\"\n", ROUNDS);
    let error = place.fails(&["train"]);
    assert!(error.contains("holds several data sets") && error.contains("b.csv"), "{error}");
}

#[test]
fn json_is_one_object_even_when_the_command_fails() {
    let place = Place::new();
    place.job("[train]\nbatchsize = 3\n");
    let finished = place.run(&["train", "-o", "json"]);
    assert!(!finished.success);
    let object: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert!(object["error"].as_str().unwrap().contains("did you mean `batch_size`?"), "{object}");
}

#[test]
fn a_missing_manifest_is_named() {
    let error = Place::new().fails(&["train", "-f", "nowhere.toml"]);
    assert!(error.contains("failed to read the manifest `nowhere.toml`"), "{error}");
}

#[test]
fn a_batch_larger_than_the_samples_of_a_peer_is_refused() {
    let place = Place::new();
    place.job("[train]\nrounds = 3\nbatch_size = 1000\n");
    let error = place.fails(&["train"]);
    assert!(error.contains("`train.batch_size` is 1000, and peer "), "{error}");
    assert!(error.contains(" training samples: choose at most "), "{error}");
}

#[test]
fn too_few_peers_for_the_faults_are_refused_not_weakened() {
    let place = Place::new();
    place.job("[train]\nrounds = 3\nbyzantine = 2\n");
    let error = place.fails(&["train"]);
    assert!(error.contains("`train.byzantine` is 2 and `train.crashed` 0, which needs at least 7 peers"), "{error}");
    place.job("[train]\nrounds = 3\nbyzantine = 1\n");
    let error = place.fails(&["train", "--peers", "2"]);
    assert!(
        error.contains("which needs at least 4 peers, and `train.peers` is 2: add peers, or tolerate fewer"),
        "{error}"
    );
    place.job("[train]\nfaults = 1\n");
    let error = place.fails(&["train"]);
    assert!(error.contains("`faults`") && error.contains("did you mean `byzantine` or `crashed`?"), "{error}");
    place.job("[train]\npeers = 5\nbyzantine = 1\naggregate = \"aggregate-multi-krum\"\n");
    let error = place.fails(&["train"]);
    assert!(
        error.contains("it needs at least 6 peers; add peers, tolerate fewer, or choose another function"),
        "{error}"
    );
}

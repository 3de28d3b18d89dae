//! Typical mistakes of newcomers, each answered with the thing, the value, the bound and the fix.

use crate::build::Build;
use crate::build::Value::Int;
use crate::harness::Place;

/// `aggregate-mean` lets one liar move the model anywhere, so a job that expects one must not use it.
#[test]
fn liars_and_a_rule_that_tolerates_none_exclude_each_other() {
    let place = Place::new();
    place.job("[train]\nbyzantine = 1\naggregate = \"aggregate-mean\"\n");
    for command in [&["train", "--out", "run"][..], &["up"], &["model", "check", "--from", "skein.toml"]] {
        let error = place.fails(command);
        let expected = "`train.byzantine` is 1, and function `aggregate-mean` tolerates no Byzantine peer, since it \
                        computes the rule `mean`: set `byzantine = 0` or choose a robust rule as `train.aggregate`: \
                        `aggregate-median`, ";
        assert!(error.contains(expected), "{command:?}: {error}");
    }
    assert!(!place.path("run").exists(), "nothing was begun");
}

#[test]
fn options_of_other_tools_are_answered_with_the_key_of_the_manifest() {
    let place = Place::new();
    place.job("");
    for (arguments, tip) in [
        (&["train", "--lr", "0.1"][..], "here with `--set train.learning_rate=0.1`"),
        (&["train", "--learning-rate=0.1"], "here with `--set train.learning_rate=0.1`"),
        (&["train", "--batch-size", "32", "--out", "run"], "here with `--set train.batch_size=32`"),
        (&["up", "--optimizer", "adam"], "here with `--set train.optimizer.name=adam`"),
        (
            &["eval", "--checkpoint", "run", "--momentum"],
            "here with `--set train.optimizer.name=momentum --set train.optimizer.momentum=VALUE`",
        ),
        (&["train", "--early-stopping", "5"], "is a table of the manifest with the keys `min_delta`, `patience`: "),
        (&["data", "inspect", "--dataset", "a b"], "here with `--set 'data.source=a b'`"),
        (
            &["train", "--epochs", "5"],
            "training is counted in rounds, each one step of the optimizer: use `--rounds N`",
        ),
        (&["train", "--nodes", "5"], "tip: `--peers` sets `train.peers`"),
        // Similar options of this program are still found.
        (&["train", "--resum"], "a similar argument exists: '--resume'"),
    ] {
        let error = place.fails(arguments);
        assert!(error.contains("error: unexpected argument '--") && error.contains(tip), "{arguments:?}: {error}");
        assert_eq!(error.matches("tip:").count(), 1, "{arguments:?}: {error}");
    }
    for (option, value) in [("--hidden", "64"), ("--freeze", "body.*"), ("--momentum", "0.9"), ("--lr", ".5")] {
        let error = place.fails(&["data", "inspect", option, value]);
        let tip = error.split_once("here with `").and_then(|(_, rest)| rest.split_once('`')).expect(&error).0;
        let words: Vec<&str> = tip.split(' ').map(|word| word.trim_matches('\'')).collect();
        let inspected = place.run(&[&["data", "inspect", "--from", "skein.toml"][..], &words[..]].concat());
        assert!(inspected.success, "{tip}");
    }
    // The demo has no manifest.
    let error = place.fails(&["demo", "--lr", "0.1"]);
    assert!(error.contains("unexpected argument '--lr'") && !error.contains("--set"), "{error}");
}

#[test]
fn a_data_file_that_does_not_exist_is_reported_with_its_key_and_its_folder() {
    let place = Place::new();
    let manifest = "skein_manifest_version = 1\n[application]\nname = \"a\"\n[data]\n";
    let here = place.path("").canonicalize().unwrap();
    let here = here.to_str().unwrap().trim_end_matches('/');
    for (data, key, path) in [
        ("source = \"a.csv\"", "data.source", "jobs/a.csv"),
        ("source = \"builtin:digits\"\ntest = \"t.csv\"", "data.test", "jobs/t.csv"),
        ("local = [\"p0\", \"p1\", \"p2\", \"p3\"]", "data.local", "jobs/p0"),
        ("source = \"../x-images-idx3-ubyte\"\nlabels = \"y\"", "data.labels", "jobs/y"),
    ] {
        place.write("x-images-idx3-ubyte", [0, 0, 8, 1, 0, 0, 0, 1, 0]);
        place.write("jobs/skein.toml", format!("{manifest}{data}\n"));
        let error = place.fails(&["train", "--from", "jobs/skein.toml"]);
        let expected = format!(
            "error: failed to read `{here}/{path}`, which `{key}` names (a relative path is relative to the manifest's folder, \
             `{here}/jobs`): No such file or directory"
        );
        assert!(error.starts_with(&expected), "{error}\n{expected}");
    }
    place.write("jobs/skein.toml", format!("{manifest}source = \"builtin:digits\"\n[model]\nonnx = \"gone.onnx\"\n"));
    let error = place.fails(&["train", "--from", "jobs/skein.toml"]);
    let expected =
        format!("failed to read `{here}/jobs/gone.onnx`, which `model.onnx` names (a relative path is relative to ");
    assert!(error.contains(&expected), "{error}\n{expected}");
    let error = place.fails(&["train", "--from", "jobs/skein.toml", "--model", "gone.onnx"]);
    assert!(error.starts_with("error: failed to read the model `gone.onnx`: No such file"), "{error}");
    place.job_on("source = \"builtin:digit\"\n", "");
    let unknown = "`builtin:digit`, which does not come with this program; did you mean `builtin:digits`?";
    let error = place.fails(&["train"]);
    assert!(error.contains(&format!("`skein.toml`: `data.source` names {unknown}")), "{error}");
    let error = place.fails(&["train", "--set", "data.source=builtin:mnist"]);
    let expected =
        "`data.source` names `builtin:mnist`, which does not come with this program; choose one of `builtin:digits`";
    assert!(error.contains(expected), "{error}");
    let error = place.fails(&["data", "inspect", "builtin:digit"]);
    assert!(error.contains("`builtin:digit` does not come with this program; did you mean"), "{error}");
}

#[test]
fn labels_that_are_no_classes_are_reported_with_the_fix() {
    let place = Place::new();
    for (rows, options, expected) in [
        ("1,2,1\n2,1,2\n", "classes = 2\n", "the labels seem to count from 1, so subtract 1 from each"),
        ("1,2,1\n2,1,5\n", "classes = 2\n", "set `data.classes` to 6 or more, or correct the label"),
        ("1,2,-1\n2,1,0\n", "", "has label -1 at sample 0, and classes are counted from 0: "),
        ("1,2,1999\n2,1,2026\n", "", "so 2027 classes, and only 2 samples: choose the labels (of a CSV file, by "),
        (
            "1,2,0.5\n",
            "",
            "is not a class index, a whole number from 0: choose the column of the labels by its heading",
        ),
        ("a,b,c\n1,2,0\n", "label_column = \"year\"\n", "has no column `year`; choose one of `a`, `b`, `c`"),
    ] {
        place.write("a.csv", rows).job_on(&format!("source = \"a.csv\"\n{options}"), "");
        let error = place.fails(&["train"]);
        assert!(error.contains(expected) && error.contains("a.csv` "), "{rows}: {error}");
    }
}

/// The three ways to write an optimizer that other tools suggest.
#[test]
fn an_optimizer_that_is_written_otherwise_is_answered_with_the_key_the_line_and_the_fix() {
    let place = Place::new();
    for (optimizer, expected) in [
        ("\"adam\"", "expected a table for `train.optimizer`: write `optimizer = { name = \"adam\" }`"),
        (
            "{ name = \"sgd\", momentum = 0.9 }",
            "`train.optimizer` with the name `sgd`: unknown field `momentum`, expected one of `name`, `weight_decay`; optimizers \
             that have it: `momentum`, `nesterov`",
        ),
        (
            "{ name = \"adam\", betas = [0.9, 0.99] }",
            "unknown field `betas`, expected one of `name`, `beta1`, `beta2`, ",
        ),
    ] {
        place.job(&format!("[train]\noptimizer = {optimizer}\n"));
        let error = place.fails(&["train"]);
        assert!(error.contains(expected) && error.contains("at line 7, column "), "{error}");
    }
    let error = place.job("").fails(&["train", "--set", "train.optimizer.beta1=0.9"]);
    let expected = "`--set train.optimizer.beta1=0.9`: `train.optimizer`: missing field `name`, one of `sgd`, ";
    assert!(error.contains(expected), "{error}");
}

/// Batch normalization after a linear layer: with one sample in a batch, each channel has one value.
#[test]
fn a_batch_of_one_sample_is_not_normalized_to_a_constant() {
    let place = Place::new();
    let model = Build::new(20)
        .input("x", &[0, 1, 8, 8])
        .floats("weight", &[64, 10], &[0.01; 640])
        .floats("scale", &[10], &[1.0; 10])
        .floats("bias", &[10], &[0.0; 10])
        .floats("mean", &[10], &[0.0; 10])
        .floats("variance", &[10], &[1.0; 10])
        .node("Flatten", "x", "flat", &[("axis", Int(1))])
        .node("MatMul", "flat weight", "a", &[])
        .node("BatchNormalization", "a scale bias mean variance", "logits", &[])
        .output("logits");
    place.write("net.onnx", model).job("[train]\nrounds = 2\n");
    let error = place.fails(&["train", "--model", "net.onnx", "--set", "train.batch_size=1"]);
    let expected = "`net.onnx` cannot be trained: node `node_2` (operator `BatchNormalization`): in training it normalizes each \
                    channel over the values of the batch, and there is only 1 value per channel: choose a batch size of at \
                    least 2";
    assert!(error.contains(expected), "{error}");
    assert!(place.run(&["train", "--model", "net.onnx", "--set", "train.batch_size=2"]).success);
}

#[test]
fn one_thing_is_not_in_the_plural() {
    let place = Place::new();
    let model = Build::new(20)
        .input("x", &[0, 1, 8, 8])
        .floats("weight", &[64, 10], &[0.01; 640])
        .node("Flatten", "x", "flat", &[("axis", Int(1))])
        .node("Dropout", "flat", "kept", &[])
        .node("MatMul", "kept weight", "logits", &[])
        .output("logits");
    place.write("net.onnx", model);
    let text = place.run(&["model", "check", "net.onnx", "--batch", "1"]).stdout;
    let expected = "can be trained: 640 parameters in 1 tensor, 0 running statistics, 1 dropout layer, on batches of 1 sample \
                    of [1, 8, 8] in 10 classes\n";
    assert!(text.contains(expected), "{text}");
}

//! A bad library, graph or input is an error that names it, on every engine.

use skein_engine::{Device, ElementType, EngineError, Kind, Options, Pool, Stop, Tensor, open};

use super::{ONE_THREAD, engines, floats, model};

#[test]
fn a_missing_library_is_an_error_with_the_install_command() {
    let empty = std::env::temp_dir().join("skein-no-engine-is-here");
    for kind in [Kind::OnnxRuntime, Kind::OpenVino] {
        let error = open(kind, Some(empty.clone())).err().expect("an error");
        let text = error.to_string();
        assert!(matches!(error, EngineError::Missing { .. }), "{text}");
        assert!(text.contains(&format!("install it with `skein engine install {kind}`")), "{text}");
    }
    let error = "tensorflow".parse::<Kind>().unwrap_err();
    assert_eq!(error.to_string(), "there is no engine `tensorflow`: choose `onnxruntime`, `openvino` or `rten`");
}

#[test]
fn bytes_that_are_not_a_graph_are_refused() {
    for engine in engines() {
        let error = engine.compile(b"not a graph", ONE_THREAD).err().expect("an error");
        assert!(matches!(error, EngineError::Compile { .. }), "{error}");
    }
}

#[test]
fn only_onnxruntime_runs_on_a_gpu() {
    for engine in engines().into_iter().filter(|engine| engine.kind() != Kind::OnnxRuntime) {
        let error = engine.compile(b"", Options { device: Device::Cuda, ..ONE_THREAD }).err().expect("an error");
        assert!(error.to_string().contains("cannot run on cuda"), "{error}");
    }
}

#[test]
fn bad_inputs_and_outputs_are_named() {
    let model = model("models/resnet.plain.onnx");
    let graph = model.evaluation_graph().unwrap().onnx;
    let parameters = super::initial(&model);
    let image = || floats(&[1, 3, 32, 32], vec![0.5; 3072]);
    for engine in engines() {
        let kind = engine.kind();
        let pool = Pool::new(engine, graph.clone(), ONE_THREAD).unwrap();
        let run = |extra: &[(&str, Tensor)], left_out: &str, output: &str| {
            let own = parameters.iter().map(|(name, tensor)| (name.as_str(), tensor.clone()));
            let mut inputs: Vec<(&str, Tensor)> = own.filter(|(name, _)| *name != left_out).collect();
            inputs.extend(extra.iter().cloned());
            pool.run(&inputs, &[output], &Stop::default())
        };
        let found = run(&[("input", image())], "", "output").unwrap();
        assert_eq!(found[0].dimensions(), [1, 10]);
        assert_eq!(found[0].ty(), ElementType::Fp32);
        let image = || ("input", image());
        let wrong = [
            run(&[image(), ("y", floats(&[1], vec![0.0]))], "", "output"),
            run(&[image()], "", "probabilities"),
            run(&[("input", floats(&[1, 3, 32], vec![0.0; 96]))], "", "output"),
            run(&[image()], "stem.0.weight", "output"),
            run(&[("input", Tensor::from_integers(vec![1; 4]))], "", "output"),
        ];
        let named = [
            "input `y` of the graph: it has no such input",
            "output `probabilities` of the graph: it has no such output",
            "input",
            "input `stem.0.weight` of the graph: it is missing",
            "input",
        ];
        for (result, named) in wrong.into_iter().zip(named) {
            let text = result.expect_err("an error").to_string();
            assert!(text.contains(named), "{kind}: {text}");
        }
        // The session still works after an error.
        run(&[image()], "", "output").unwrap();
    }
}

/// The same inputs produce the same bits, regardless of the number of concurrent runs.
#[test]
fn concurrent_runs_produce_the_same_bits() {
    let model = model("models/resnet.plain.onnx");
    for engine in engines() {
        let options = skein_graph::Options { lowering: super::lowering(engine.kind()), ..Default::default() };
        let graph = model.training_graph(&options).unwrap();
        let mut inputs: Vec<(String, Tensor)> = super::initial(&model).into_iter().collect();
        inputs
            .push(("input".into(), floats(&[4, 3, 32, 32], (0..4 * 3072).map(|i| (i % 255) as f32 / 255.0).collect())));
        inputs.push(("labels".into(), Tensor::from_integers(vec![1, 2, 3, 4])));
        let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        let pool = Pool::new(engine, graph.onnx, ONE_THREAD).unwrap();
        let run = || pool.run(&inputs, &["loss", "grad.stem.0.weight"], &Stop::default()).unwrap();
        let bytes = |tensors: Vec<Tensor>| tensors.iter().map(|tensor| tensor.bytes().to_vec()).collect::<Vec<_>>();
        let expected = bytes(run());
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| bytes(run()))).collect();
            runs.into_iter().for_each(|run| assert!(run.join().unwrap() == expected));
        });
    }
}

//! A gradient function that does what its setting `behaviour` names: nothing, or harm.
//!
//! Not part of the product: benchmarks call it to do nothing, tests check that a host survives it.

#[cfg(target_arch = "wasm32")]
mod component {
    #![expect(unsafe_code, reason = "the export that wit-bindgen generates")]

    mod bindings {
        wit_bindgen::generate!({ path: "../../wit", world: "gradient", generate_all });
    }

    use bindings::exports::skein::train::gradients::{Batch, Error, Gradient, Guest, Metrics, Tensor};
    use bindings::skein::train::{parameters, settings};
    use bindings::wasi::nn::errors::Error as GraphError;
    use bindings::wasi::nn::graph::{ExecutionTarget, GraphEncoding, load, load_by_name};
    use bindings::wasi::nn::inference::GraphExecutionContext;
    use bindings::wasi::nn::tensor::TensorType;

    struct Probe;

    impl Guest for Probe {
        fn compute(batch: Batch) -> Result<Gradient, Error> {
            let behaviour = settings::get("behaviour").unwrap_or_default();
            let mut gradient = Gradient { loss: 0.5, samples: batch.samples, tensors: Vec::new() };
            match behaviour.as_str() {
                "" => return Ok(gradient),
                "loop" => spin(),
                "allocate" => hold(|| std::hint::black_box(vec![1u8; 1 << 20])),
                "trap" => panic!("asked to trap"),
                "recurse" => gradient.samples = recurse(batch.samples),
                "refuse" => return Err(Error::InvalidBatch("asked to refuse".into())),
                "shout" => return Err(Error::Other("a".repeat(1 << 20))),
                "handles" => hold(|| Tensor::new(&[1], TensorType::U8, &[0])),
                "dimensions" => hold(|| Tensor::new(&[0; 16], TensorType::U8, &[])),
                "views" => hold(|| parameters::get("layers.0.weight")),
                "rank" => drop(Tensor::new(&[1; 17], TensorType::U8, &[0])),
                "huge-rank" => drop(Tensor::new(&vec![0; 1 << 20], TensorType::U8, &[])),
                "drop-batch" => exchange(batch.tensors),
                "bytes" => drop(Tensor::new(&[1 << 28], TensorType::U8, &vec![0; 1 << 28])),
                "short-tensor" => drop(Tensor::new(&[2, 2], TensorType::Fp32, &[0; 15])),
                "many-samples" => gradient.samples += 1,
                "no-samples" => gradient.samples = 0,
                "nan-loss" => gradient.loss = f32::NAN,
                graph if graph.starts_with("graph-") => return use_graph(graph, batch),
                _ => {}
            }
            gradient.tensors = zeros(&behaviour);
            Ok(gradient)
        }

        fn evaluate(batch: Batch) -> Result<Metrics, Error> {
            let samples = batch.samples;
            match settings::get("behaviour").as_deref() {
                Some("nan-loss") => Ok(Metrics { loss: f32::NAN, samples, correct: None }),
                Some("too-correct") => Ok(Metrics { loss: 0.5, samples, correct: Some(samples + 1) }),
                _ => Ok(Metrics { loss: 0.5, samples, correct: None }),
            }
        }
    }

    /// A gradient of zeros, corrupted as `behaviour` names.
    fn zeros(behaviour: &str) -> Vec<(String, Tensor)> {
        let mut tensors: Vec<_> = parameters::describe()
            .into_iter()
            .map(|parameter| {
                let mut shape = parameter.shape.clone();
                let mut data = vec![0u8; shape.iter().product::<u32>() as usize * 4];
                let ty = if behaviour == "wrong-type" { TensorType::I32 } else { TensorType::Fp32 };
                match behaviour {
                    "wrong-shape" => {
                        shape.push(1);
                    }
                    "nan" => data[..4].copy_from_slice(&f32::NAN.to_le_bytes()),
                    _ => {}
                }
                let name = if behaviour == "wrong-name" { format!("{}?", parameter.name) } else { parameter.name };
                (name, Tensor::new(&shape, ty, &data))
            })
            .collect();
        match behaviour {
            "missing" => drop(tensors.pop()),
            "twice" => {
                let (name, tensor) = &tensors[0];
                let copy = (name.clone(), Tensor::new(&tensor.dimensions(), tensor.ty(), &tensor.data()));
                tensors.push(copy);
            }
            _ => {}
        }
        tensors
    }

    fn spin() {
        let mut count = 0u64;
        while std::hint::black_box(count) != u64::MAX {
            count = count.wrapping_add(2);
        }
    }

    /// Creates values forever and drops none.
    fn hold<T>(mut make: impl FnMut() -> T) {
        let mut held = Vec::new();
        loop {
            held.push(make());
        }
    }

    /// Drops the batch, then creates 12 MiB of tensors beside 4 MiB of memory.
    fn exchange(batch: Vec<(String, Tensor)>) {
        let memory = std::hint::black_box(vec![1u8; 4 << 20]);
        drop(batch);
        let held: Vec<_> = (0..12).map(|_| Tensor::new(&[1 << 20], TensorType::U8, &memory[..1 << 20])).collect();
        drop(held);
    }

    #[expect(unconditional_recursion, reason = "that is what it is for")]
    fn recurse(depth: u32) -> u32 {
        std::hint::black_box(recurse(std::hint::black_box(depth) + 1)) + 1
    }

    /// Uses the job's graph, correctly or not; an error of the host becomes the call's error.
    fn use_graph(behaviour: &str, batch: Batch) -> Result<Gradient, Error> {
        let samples = batch.samples;
        let graph = match behaviour {
            "graph-load" => load(&[vec![8, 9]], GraphEncoding::Onnx, ExecutionTarget::Cpu),
            "graph-load-openvino" => load(&[vec![8, 9]], GraphEncoding::Openvino, ExecutionTarget::Cpu),
            "graph-unknown" => load_by_name("nothing"),
            _ => load_by_name("model/train"),
        };
        let context = graph.and_then(|graph| graph.init_execution_context()).map_err(told)?;
        hoard(behaviour, &context);
        let mut inputs = batch.tensors;
        match behaviour {
            "graph-empty" => inputs.clear(),
            "graph-shout" => {
                inputs.push(("ä".repeat(1 << 20), Tensor::new(&[1], TensorType::U8, &[1])));
                let text = context.compute(inputs).err().map_or_else(String::new, |error| error.data());
                return Err(Error::Other(format!("{} bytes: {text}", text.len())));
            }
            "graph-long-name" => inputs.push(("a".repeat(7 << 20), Tensor::new(&[1], TensorType::U8, &[1]))),
            "graph-strange" => inputs.push(("strange".into(), Tensor::new(&[1], TensorType::U8, &[1]))),
            "graph-twice" => inputs.push(("input".into(), Tensor::new(&[1], TensorType::U8, &[1]))),
            "graph-wrong-shape" => inputs[0].1 = Tensor::new(&[3], TensorType::Fp32, &[0; 12]),
            "graph-large-batch" => {
                let values = vec![0; 100_000 * 4];
                inputs[0].1 = Tensor::new(&[100_000, 1], TensorType::Fp32, &values);
            }
            "graph-wrong-type" => {
                let count = inputs[0].1.dimensions().iter().product::<u32>();
                inputs[0].1 = Tensor::new(&inputs[0].1.dimensions(), TensorType::I32, &vec![0; count as usize * 4]);
            }
            "graph-half" => {
                let count = inputs[0].1.dimensions().iter().product::<u32>();
                inputs[0].1 = Tensor::new(&inputs[0].1.dimensions(), TensorType::Fp16, &vec![0; count as usize * 2]);
            }
            "graph-forged" => {
                // The graph computes with parameters that the function chose, as with any input.
                let weight = vec![0; 10 * 512 * 4];
                inputs.push(("linear.weight".into(), Tensor::new(&[10, 512], TensorType::Fp32, &weight)));
            }
            _ => {}
        }
        let outputs = context.compute(inputs).map_err(told)?;
        let mut gradient = Gradient { loss: 0.0, samples, tensors: Vec::new() };
        for (name, tensor) in outputs {
            match name.strip_prefix("grad.").or_else(|| name.strip_prefix("new.")) {
                Some(parameter) => gradient.tensors.push((parameter.into(), tensor)),
                None => gradient.loss = f32::from_le_bytes(tensor.data()[..4].try_into().unwrap_or_default()),
            }
        }
        Ok(gradient)
    }

    /// Drops nothing that the host creates for it.
    fn hoard(behaviour: &str, context: &GraphExecutionContext) {
        match behaviour {
            // A run consumes its inputs, so each gets a new batch.
            "graph-hoard" => hold(|| {
                let own = [("input", &[4u32, 64][..], TensorType::Fp32, 1024), ("labels", &[4], TensorType::I64, 32)];
                let own = own.map(|(name, shape, ty, bytes)| (name.into(), Tensor::new(shape, ty, &vec![0; bytes])));
                context.compute(own.into()).expect("a batch that fits")
            }),
            "graph-hoard-errors" => hold(|| load_by_name("nothing")),
            "graph-hoard-graphs" => hold(|| load_by_name("model/train")),
            "graph-hoard-contexts" => {
                let graph = load_by_name("model/train");
                hold(|| graph.as_ref().map(|graph| graph.init_execution_context()));
            }
            _ => {}
        }
    }

    fn told(error: GraphError) -> Error {
        Error::Other(format!("{:?}: {}", error.code(), error.data()))
    }

    bindings::export!(Probe with_types_in bindings);
}

//! A run that takes long ends when it is stopped, on every engine, and the next one is not affected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use skein_engine::{EngineError, Pool, Stop, Tensor};

use super::{ONE_THREAD, engines, floats, initial, lowering, model};

/// Processor time after which a run is surely at work.
const AT_WORK: Duration = Duration::from_millis(100);
/// Samples of a batch that takes seconds.
const MANY: u32 = 512;

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[test]
fn a_run_ends_when_it_is_stopped() {
    let model = model("models/resnet.plain.onnx");
    let batch = |samples: u32| {
        let values = (0..samples * 3072).map(|i| (i % 255) as f32 / 255.0).collect();
        let labels = Tensor::from_integers((0..i64::from(samples)).map(|i| i % 10).collect());
        let input = floats(&[samples, 3, 32, 32], values);
        initial(&model).into_iter().chain([("input".into(), input), ("labels".into(), labels)]).collect()
    };
    let many: Arc<Vec<(String, Tensor)>> = Arc::new(batch(MANY));
    let few: Vec<(String, Tensor)> = batch(2);
    for engine in engines() {
        let kind = engine.kind();
        let options = skein_graph::Options { lowering: lowering(kind), ..Default::default() };
        let graph = model.training_graph(&options).unwrap();
        let pool = Arc::new(Pool::new(engine, graph.onnx, ONE_THREAD).unwrap());
        let run = |pool: &Pool, inputs: &[(String, Tensor)], stop: &Stop| {
            let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
            pool.run(&inputs, &["loss", "grad.stem.0.weight"], stop)
        };
        let expected = run(&pool, &few, &Stop::default()).unwrap();

        let stop = Stop::default();
        let begun = processor_time();
        let stopped = std::thread::scope(|scope| {
            let long = scope.spawn(|| run(&pool, &many, &stop));
            while processor_time() < begun + AT_WORK {
                assert!(!long.is_finished(), "{kind}: the batch is too small for this test");
                std::thread::yield_now();
            }
            let asked = Instant::now();
            stop.stop();
            let result = long.join().unwrap();
            println!("{kind} stopped after {:?}", asked.elapsed());
            result
        });
        assert!(matches!(stopped, Err(EngineError::Stopped)), "{kind}: {stopped:?}");
        assert!(matches!(run(&pool, &few, &stop), Err(EngineError::Stopped)), "{kind}: a later run does not begin");
        let again = run(&pool, &few, &Stop::default()).unwrap();
        let same = expected.iter().zip(&again).all(|(expected, again)| expected.bytes() == again.bytes());
        assert!(same, "{kind}: the next run computes as before");
    }
}

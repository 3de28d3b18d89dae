//! Makes an engine do early what it does only once.

use skein_graph::networks;

use crate::{ElementType, Engine, EngineError, Options, Stop, Tensor};

/// Side of the image that the network gets.
const SIDE: u32 = 4;

/// Compiles and runs a small network, so that the engine does what it does only once: it loads parts of itself, looks at
/// the processor and starts threads. A process that gives up system calls must do this before.
///
/// # Errors
/// [`EngineError`]: the engine cannot run on the device.
pub fn warm_up(engine: &dyn Engine, options: Options) -> Result<(), EngineError> {
    let side = i64::from(SIDE);
    let mut session = engine.compile(&networks::convolutional([1, side, side], 2), options)?;
    let dimensions = vec![1, 1, SIDE, SIDE];
    let pixels = vec![0; (SIDE * SIDE) as usize * ElementType::Fp32.size()];
    let image = Tensor::from_bytes(dimensions, ElementType::Fp32, pixels).expect("as many bytes as pixels have");
    session.run(&[("input", image)], &["logits"], &Stop::default())?;
    Ok(())
}

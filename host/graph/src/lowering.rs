//! How the gradients of operators are written down: engines differ in what they do fast.

/// Gradient of a convolution with respect to its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightGradient {
    /// A convolution of the input with the gradient, batch and channels exchanged.
    Conv,
    /// One matrix product with the patches of the input side by side.
    Patches,
}

/// Gradient of a convolution with respect to its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputGradient {
    /// A transposed convolution.
    ConvTranspose,
    /// A convolution with the kernel flipped where the stride is 1, a transposed one elsewhere.
    FlippedConv,
}

/// Gradient of a maximum over windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolGradient {
    /// Scattered to the positions that `MaxPool` gives as a second output.
    Scatter,
    /// By comparing slices of the input, without positions: for engines that do not give them, or slowly.
    Slices,
}

/// How what has channels and a batch is laid out in a training graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As in the model: `[N, C, H, W]`, convolutions by the engine's own.
    BatchFirst,
    /// `[C, H·W, N]`: convolutions as matrix products, few of them transposed, with fewer multiplications for 3×3.
    BatchLast,
}

/// How a training graph is written down. Every choice gives the same gradients but for rounding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowering {
    /// Layout of what has channels and a batch. The choices below are for [`Layout::BatchFirst`], and for what has no
    /// rule in the other.
    pub layout: Layout,
    /// Gradient of a convolution with respect to its weight.
    pub weight_gradient: WeightGradient,
    /// Gradient of a convolution with respect to its input.
    pub input_gradient: InputGradient,
    /// Gradient of a maximum over windows.
    pub pool_gradient: PoolGradient,
    /// Bytes of patches per sample above which [`WeightGradient::Conv`] is used in place of patches.
    pub patch_bytes_max: u64,
}

impl Lowering {
    /// What every engine can run.
    pub fn portable() -> Lowering {
        Lowering {
            layout: Layout::BatchFirst,
            weight_gradient: WeightGradient::Patches,
            input_gradient: InputGradient::ConvTranspose,
            pool_gradient: PoolGradient::Slices,
            patch_bytes_max: 1 << 20,
        }
    }

    /// For ONNX Runtime.
    pub fn onnxruntime() -> Lowering {
        Lowering { layout: Layout::BatchLast, pool_gradient: PoolGradient::Scatter, ..Lowering::portable() }
    }

    /// For OpenVINO, whose scattering is slow.
    pub fn openvino() -> Lowering {
        Lowering { layout: Layout::BatchLast, ..Lowering::portable() }
    }

    /// For rten, which has no positions of maxima and whose transposed convolution uses one thread.
    pub fn rten() -> Lowering {
        Lowering { layout: Layout::BatchLast, input_gradient: InputGradient::FlippedConv, ..Lowering::portable() }
    }

    /// The lowering of that name.
    pub fn named(name: &str) -> Option<Lowering> {
        match name {
            "portable" => Some(Lowering::portable()),
            "onnxruntime" => Some(Lowering::onnxruntime()),
            "openvino" => Some(Lowering::openvino()),
            "rten" => Some(Lowering::rten()),
            _ => None,
        }
    }
}

//! How the gradients of operators are expressed: engines differ in which form they run fast.

/// Gradient of a convolution with respect to its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightGradient {
    /// A convolution of the input with the gradient, with batch and channels exchanged.
    Conv,
    /// One matrix product with the patches of the input side by side (im2col).
    Patches,
}

/// Gradient of a convolution with respect to its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputGradient {
    /// A transposed convolution of the output's gradient with the same kernel.
    ConvTranspose,
    /// A convolution with the flipped kernel if the stride is 1, a transposed convolution otherwise.
    FlippedConv,
}

/// Gradient of a maximum over windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolGradient {
    /// Scattered to the positions that `MaxPool` returns as its second output.
    Scatter,
    /// Routed by comparing slices of the input: for engines that return no positions, or do so slowly.
    Slices,
}

/// Layout of tensors with channels and a batch in a training graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[N, C, H, W]` as in the model, with the engine's convolutions.
    BatchFirst,
    /// `[C, H·W, N]`: convolutions are matrix products, few of them transposed, with fewer multiplications for 3×3.
    BatchLast,
}

/// How a training graph is expressed. Every choice computes the same gradients up to rounding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowering {
    /// Layout of tensors with channels and a batch. The choices below apply to [`Layout::BatchFirst`], and to operators
    /// without a rule in [`Layout::BatchLast`].
    pub layout: Layout,
    /// Gradient of a convolution with respect to its weight.
    pub weight_gradient: WeightGradient,
    /// Gradient of a convolution with respect to its input.
    pub input_gradient: InputGradient,
    /// Gradient of a maximum over windows.
    pub pool_gradient: PoolGradient,
    /// Bytes of patches per sample above which [`WeightGradient::Conv`] replaces patches.
    pub patch_bytes_max: u64,
}

impl Lowering {
    /// The lowering that every engine can run.
    pub fn portable() -> Lowering {
        Lowering {
            layout: Layout::BatchFirst,
            weight_gradient: WeightGradient::Patches,
            input_gradient: InputGradient::ConvTranspose,
            pool_gradient: PoolGradient::Slices,
            patch_bytes_max: 1 << 20,
        }
    }

    /// For ONNX Runtime, which returns and scatters to positions of maxima.
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

    /// The lowering for the engine of that name, or `portable`.
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

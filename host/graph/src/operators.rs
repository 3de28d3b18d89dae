//! The supported operators of `ai.onnx`, and the roles of their inputs.

/// Role of an initializer as an input of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// An operand: a parameter, if the file has its values.
    Operand,
    /// A running statistic of a batch normalization.
    Running,
    /// A setting of the computation, such as axes or a shape.
    Setting,
}

/// The role of an operator's input.
pub(crate) fn role(op: &str, input: usize) -> Role {
    match (op, input) {
        ("BatchNormalization", 3 | 4) => Role::Running,
        ("Shape" | "Size" | "ConstantOfShape" | "Range" | "OneHot", _) => Role::Setting,
        ("Clip" | "Pad" | "Resize" | "Pow" | "Dropout" | "CastLike" | "Expand" | "Tile" | "Reshape" | "Slice", 1..)
        | ("Gather" | "GatherElements" | "GatherND" | "Trilu" | "CumSum" | "Split" | "Squeeze" | "Unsqueeze", 1..) => {
            Role::Setting
        }
        (reduction, 1..) if reduction.starts_with("Reduce") => Role::Setting,
        _ => Role::Operand,
    }
}

/// The static name of a supported operator.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    NAMES.iter().copied().find(|known| *known == name)
}

/// The operators of `ai.onnx` that a model may have.
pub const NAMES: [&str; 107] = [
    "Abs",
    "Add",
    "And",
    "ArgMax",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvTranspose",
    "Cos",
    "CumSum",
    "Div",
    "Dropout",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "OneHot",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "RMSNormalization",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shape",
    "Sigmoid",
    "Sign",
    "Sin",
    "Size",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Upsample",
    "Where",
    "Xor",
];

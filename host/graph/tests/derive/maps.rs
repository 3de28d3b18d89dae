//! Chains of operators in the layout with the batch last, where one map passes from operator to operator.

use skein_graph::{Loss, Lowering};

use crate::Numbers;
use crate::build::Build;
use crate::build::Value::{Int, Ints};
use crate::rules::{check_model, parse};

const CROSS_ENTROPY: Loss = Loss::CrossEntropy { ignore_index: None };

fn check(name: &str, file: Vec<u8>, loss: Loss) {
    check_model(name, &parse(name, file), loss, &Lowering::onnxruntime());
}

/// `x` of the given sample shape through a 1×1 convolution, which makes it a map of `channels`.
fn start(sample: [i64; 3], channels: i64) -> Build {
    let weights = Numbers::new(21).vector((channels * sample[0]) as usize);
    Build::new(20)
        .input("x", &[0, sample[0], sample[1], sample[2]])
        .floats("first", &[channels, sample[0], 1, 1], &weights)
        .node("Conv", "x first", "map", &[])
}

/// Everything from `last` to logits of three classes.
fn finish(build: Build, last: &str, channels: i64) -> Vec<u8> {
    build
        .floats("linear", &[3, channels], &Numbers::new(22).vector((3 * channels) as usize))
        .floats("linear_bias", &[3], &[0.1, -0.2, 0.3])
        .node("GlobalAveragePool", last, "pooled", &[])
        .node("Flatten", "pooled", "flat", &[])
        .node("Gemm", "flat linear linear_bias", "y", &[("transB", Int(1))])
        .output("y")
}

#[test]
fn convolutions_of_every_geometry() {
    let cases: [([i64; 2], i64, i64, [i64; 2], i64, [i64; 2], [i64; 4], i64); 12] = [
        // sizes, channels in and out, kernel, group, strides, pads, dilation
        ([5, 6], 3, 4, [3, 3], 1, [1, 1], [1, 1, 1, 1], 1),
        ([5, 6], 3, 4, [3, 3], 1, [2, 2], [1, 1, 1, 1], 1),
        ([6, 5], 3, 4, [3, 2], 1, [2, 1], [0, 1, 2, 0], 2),
        ([4, 4], 3, 4, [1, 1], 1, [2, 2], [0, 0, 0, 0], 1),
        ([1, 1], 3, 4, [3, 3], 1, [1, 1], [1, 1, 1, 1], 1),
        ([3, 3], 3, 4, [3, 3], 1, [1, 1], [0, 0, 0, 0], 1),
        ([2, 2], 3, 4, [3, 3], 1, [2, 2], [1, 1, 1, 1], 1),
        ([4, 5], 8, 3, [3, 3], 1, [1, 1], [1, 1, 1, 1], 1),
        ([5, 5], 4, 4, [3, 3], 4, [1, 1], [1, 1, 1, 1], 1),
        ([5, 5], 4, 4, [3, 3], 4, [2, 2], [1, 1, 1, 1], 1),
        ([1, 1], 4, 4, [3, 3], 4, [1, 1], [1, 1, 1, 1], 1),
        ([5, 4], 4, 6, [3, 3], 2, [1, 1], [1, 1, 1, 1], 1),
    ];
    for ([height, width], inputs, outputs, kernel, group, strides, pads, dilation) in cases {
        let dims = [outputs, inputs / group, kernel[0], kernel[1]];
        let attributes = [
            ("group", Int(group)),
            ("strides", Ints(&strides)),
            ("pads", Ints(&pads)),
            ("dilations", Ints(&[dilation, dilation])),
        ];
        let build = start([2, height, width], inputs)
            .floats("weight", &dims, &Numbers::new(23).vector(dims.iter().product::<i64>() as usize))
            .floats("bias", &[outputs], &Numbers::new(24).vector(outputs as usize))
            .node("Conv", "map weight bias", "conv", &attributes);
        check(&format!("{height}×{width}, {dims:?}, {strides:?}"), finish(build, "conv", outputs), CROSS_ENTROPY);
    }
}

/// Maps of 2×2 to 4×4 at once, and 8×8 by tiles, at the number of channels from which these forms are used.
#[test]
fn convolutions_with_fewer_products() {
    for size in [2, 3, 4, 8] {
        let build = start([2, size, size], 64)
            .floats("weight", &[64, 64, 3, 3], &Numbers::new(25).vector(64 * 64 * 9))
            .floats("bias", &[64], &Numbers::new(26).vector(64))
            .node("Conv", "map weight bias", "conv", &[("pads", Ints(&[1, 1, 1, 1]))])
            .floats("shrink", &[], &[0.01])
            .node("Mul", "conv shrink", "small", &[]);
        check(&format!("{size}×{size}"), finish(build, "small", 64), CROSS_ENTROPY);
    }
}

#[test]
fn pools_branches_and_scales() {
    let pooled = [("kernel_shape", Ints(&[3, 3])), ("strides", Ints(&[2, 2])), ("pads", Ints(&[1, 1, 1, 1]))];
    let halved = [("kernel_shape", Ints(&[2, 2])), ("strides", Ints(&[2, 2]))];
    let build = start([2, 8, 7], 4)
        .node("Relu", "map", "relu", &[])
        .node("MaxPool", "relu", "large", &pooled)
        .node("AveragePool", "large", "mean", &halved)
        .node("MaxPool", "large", "most", &halved)
        .node("Concat", "mean most", "joined", &[("axis", Int(1))])
        // Channels weighted by a gate that the whole map determines.
        .node("GlobalAveragePool", "joined", "all", &[])
        .floats("squeeze", &[8, 8, 1, 1], &Numbers::new(27).vector(64))
        .node("Conv", "all squeeze", "squeezed", &[])
        .node("HardSigmoid", "squeezed", "gate", &[])
        .node("Mul", "gate joined", "weighted", &[])
        .node("Add", "weighted joined", "sum", &[]);
    check("branches", finish(build, "sum", 8), CROSS_ENTROPY);
}

#[test]
fn batch_normalization_of_maps() {
    let build = start([2, 3, 3], 4)
        .floats("scale", &[4], &[1.0, 0.5, -0.7, 1.3])
        .floats("bias", &[4], &[0.1, 0.2, 0.3, -0.4])
        .floats("mean", &[4], &[0.0, 0.1, 0.2, 0.3])
        .floats("variance", &[4], &[1.0, 0.9, 0.8, 0.7])
        .node("BatchNormalization", "map scale bias mean variance", "normal", &[])
        .node("HardSwish", "normal", "active", &[]);
    check("normalized", finish(build, "active", 4), CROSS_ENTROPY);
}

/// Adaptive pooling to more positions than the map has repeats them: their weights are added first.
#[test]
fn a_repeated_position_before_a_linear_layer() {
    let file = start([2, 1, 1], 4)
        .integers("shape", &[4], &[1, 1, 3, 3])
        .node("Expand", "map shape", "wide", &[])
        .node("Flatten", "wide", "flat", &[])
        .floats("linear", &[3, 36], &Numbers::new(28).vector(108))
        .floats("bias", &[3], &[0.1, 0.2, 0.3])
        .node("Gemm", "flat linear bias", "y", &[("transB", Int(1))])
        .output("y");
    check("repeated", file, CROSS_ENTROPY);
}

/// Operators without a rule in this layout use the model's layout, between operators that have one.
#[test]
fn operators_without_a_map_rule_in_between() {
    let build = start([2, 4, 4], 4)
        .node("Relu", "map", "relu", &[])
        .node("Transpose", "relu", "turned", &[("perm", Ints(&[0, 1, 3, 2]))])
        .floats("weight", &[4, 4, 3, 3], &Numbers::new(29).vector(144))
        .node("Conv", "turned weight", "conv", &[])
        .node("LayerNormalization", "conv scale", "normal", &[])
        .floats("scale", &[2], &[0.7, 1.2]);
    check("in between", finish(build, "normal", 4), CROSS_ENTROPY);
}

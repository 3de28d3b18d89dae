//! Convolutions, pools, enlargement and embedding, one operator at a time.

use skein_graph::Loss;

use crate::Numbers;
use crate::build::Build;
use crate::build::Value::{Int, Ints, Text};
use crate::rules::{check, check_operator};

#[test]
fn convolutions() {
    let cases: [(&[i64], &[i64], i64, [&[i64]; 3]); 12] = [
        // sample shape, weight, group, strides, dilations, pads
        (&[2, 5, 6], &[3, 2, 3, 3], 1, [&[1, 1], &[1, 1], &[1, 1, 1, 1]]),
        (&[2, 5, 6], &[3, 2, 3, 3], 1, [&[2, 2], &[1, 1], &[1, 1, 1, 1]]),
        (&[2, 7, 6], &[3, 2, 3, 2], 1, [&[3, 2], &[1, 1], &[0, 1, 2, 0]]),
        (&[2, 7, 8], &[3, 2, 3, 3], 1, [&[1, 2], &[2, 2], &[1, 0, 2, 1]]),
        (&[2, 4, 4], &[3, 2, 1, 1], 1, [&[1, 1], &[1, 1], &[0, 0, 0, 0]]),
        (&[2, 5, 5], &[3, 2, 1, 1], 1, [&[2, 2], &[1, 1], &[0, 0, 0, 0]]),
        (&[4, 5, 5], &[4, 1, 3, 3], 4, [&[1, 1], &[1, 1], &[1, 1, 1, 1]]),
        (&[4, 6, 6], &[4, 1, 3, 3], 4, [&[2, 2], &[1, 1], &[1, 1, 1, 1]]),
        (&[4, 5, 5], &[6, 2, 3, 3], 2, [&[2, 1], &[1, 1], &[1, 1, 1, 1]]),
        (&[2, 1, 1], &[3, 2, 3, 3], 1, [&[1, 1], &[1, 1], &[1, 1, 1, 1]]),
        (&[2, 2, 2], &[3, 2, 3, 3], 1, [&[1, 1], &[1, 1], &[1, 1, 1, 1]]),
        (&[2, 9], &[3, 2, 4], 1, [&[2], &[1], &[1, 2]]),
    ];
    for (sample, weight, group, [strides, dilations, pads]) in cases {
        let attributes =
            [("group", Int(group)), ("strides", Ints(strides)), ("dilations", Ints(dilations)), ("pads", Ints(pads))];
        check_operator("Conv", sample, &[weight, &weight[..1]], &attributes);
        check_operator("Conv", sample, &[weight], &attributes);
    }
    check_operator(
        "Conv",
        &[2, 5, 6],
        &[&[3, 2, 3, 3]],
        &[("auto_pad", Text("SAME_UPPER")), ("strides", Ints(&[2, 2]))],
    );
}

#[test]
fn transposed_convolutions() {
    let cases: [(&[i64], &[i64], i64, [&[i64]; 4]); 4] = [
        (&[2, 4, 4], &[2, 3, 3, 3], 1, [&[1, 1], &[1, 1], &[1, 1, 1, 1], &[0, 0]]),
        (&[2, 4, 3], &[2, 3, 3, 3], 1, [&[2, 2], &[1, 1], &[1, 1, 1, 1], &[1, 1]]),
        (&[2, 4, 3], &[2, 3, 2, 3], 1, [&[2, 3], &[1, 2], &[0, 1, 1, 0], &[1, 0]]),
        (&[4, 3, 3], &[4, 2, 3, 3], 2, [&[2, 2], &[1, 1], &[1, 1, 1, 1], &[0, 1]]),
    ];
    for (sample, weight, group, [strides, dilations, pads, extra]) in cases {
        let attributes = [
            ("group", Int(group)),
            ("strides", Ints(strides)),
            ("dilations", Ints(dilations)),
            ("pads", Ints(pads)),
            ("output_padding", Ints(extra)),
        ];
        check_operator("ConvTranspose", sample, &[weight, &[weight[1] * group]], &attributes);
    }
}

#[test]
fn pools() {
    let cases: [(&[i64], &[i64], &[i64], &[i64], i64); 7] = [
        // sample shape, kernel, strides, pads, ceil
        (&[2, 6, 6], &[2, 2], &[2, 2], &[0, 0, 0, 0], 0),
        (&[2, 6, 7], &[3, 3], &[2, 2], &[1, 1, 1, 1], 0),
        (&[2, 6, 6], &[3, 3], &[2, 2], &[0, 0, 0, 0], 1),
        (&[2, 5, 5], &[3, 2], &[1, 1], &[1, 0, 1, 1], 0),
        (&[2, 7, 7], &[2, 2], &[3, 3], &[0, 0, 0, 0], 0),
        (&[2, 2, 2], &[2, 2], &[2, 2], &[0, 0, 0, 0], 0),
        (&[2, 9], &[3], &[2], &[1, 1], 0),
    ];
    for (sample, kernel, strides, pads, ceil) in cases {
        let window = || [("kernel_shape", Ints(kernel)), ("strides", Ints(strides)), ("pads", Ints(pads))];
        let [kernel_shape, steps, around] = window();
        check_operator("MaxPool", sample, &[], &[kernel_shape, steps, around, ("ceil_mode", Int(ceil))]);
        for includes in [0, 1].into_iter().filter(|_| ceil == 0) {
            let [kernel_shape, steps, around] = window();
            let attributes = [kernel_shape, steps, around, ("count_include_pad", Int(includes))];
            check_operator("AveragePool", sample, &[], &attributes);
        }
    }
    check_operator("MaxPool", &[2, 7, 7], &[], &[("kernel_shape", Ints(&[2, 2])), ("dilations", Ints(&[2, 3]))]);
}

#[test]
fn enlargement_and_embedding() {
    let enlarged = Build::new(20)
        .input("x", &[0, 2, 3, 3])
        .floats("p", &[2, 3, 3], &Numbers::new(5).vector(18))
        .tensor(rten_onnx::onnx::TensorProto {
            name: Some("scales".into()),
            dims: vec![4],
            data_type: Some(rten_onnx::onnx::DataType::FLOAT),
            float_data: vec![1.0, 1.0, 2.0, 3.0],
            ..Default::default()
        })
        .node("Mul", "x p", "a", &[])
        .node(
            "Resize",
            "a _ scales",
            "y",
            &[("coordinate_transformation_mode", Text("asymmetric")), ("nearest_mode", Text("floor"))],
        )
        .output("y");
    check("Resize", enlarged, Loss::MeanSquaredError);
    let embedding = Build::new(20)
        .input("x", &[0, 4])
        .floats("table", &[5, 3], &Numbers::new(5).vector(15))
        .integers("tokens", &[2, 2], &[1, 4, 1, 0])
        .node("Gather", "table tokens", "rows", &[("axis", Int(0))])
        .integers("flat", &[2], &[3, 4])
        .node("Reshape", "rows flat", "a", &[])
        .node("MatMul", "a w", "b", &[])
        .floats("w", &[4, 4], &Numbers::new(8).vector(16))
        .node("ReduceMean", "b", "c", &[("keepdims", Int(0))])
        .node("Mul", "x c", "y", &[])
        .output("y");
    check("Gather", embedding, Loss::MeanSquaredError);
}

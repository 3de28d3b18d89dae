//! Networks that need no file. They are written as ONNX, so that they are handled as any other model.

use bytes::Bytes;
use prost::Message;

use crate::proto::{self, DimensionValue, attribute_type};

/// Channels of the two convolutions of [`convolutional`].
const CHANNELS: [i64; 2] = [16, 32];

/// A small convolutional network for images of `[channels, height, width]`: two blocks of convolution (3×3), batch
/// normalization and ReLU, a maximum over 2×2 if the image is large enough, and a linear layer.
///
/// Its weights are zeros: the caller draws them from a seed.
pub fn convolutional([channels, height, width]: [i64; 3], classes: i64) -> Vec<u8> {
    let mut graph = proto::Graph { name: "convolutional".into(), ..Default::default() };
    let sizes = [None, Some(channels), Some(height), Some(width)];
    graph.input.push(info("input", &sizes));
    graph.output.push(info("logits", &[None, Some(classes)]));
    let mut x = "input".to_owned();
    let mut inputs = channels;
    for (index, outputs) in CHANNELS.into_iter().enumerate() {
        let name = |part: &str| format!("blocks.{index}.{part}");
        graph.initializer.push(filled(&name("conv.weight"), &[outputs, inputs, 3, 3], 0.0));
        for (part, value) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            graph.initializer.push(filled(&name(&format!("norm.{part}")), &[outputs], value));
        }
        let pads = [ints("pads", &[1, 1, 1, 1]), ints("kernel_shape", &[3, 3])];
        graph.node.push(node("Conv", &[&x, &name("conv.weight")], &name("conv"), &pads));
        let statistics = ["weight", "bias", "running_mean", "running_var"].map(|part| name(&format!("norm.{part}")));
        let [scale, bias, mean, variance] = &statistics;
        graph.node.push(node("BatchNormalization", &[&name("conv"), scale, bias, mean, variance], &name("norm"), &[]));
        graph.node.push(node("Relu", &[&name("norm")], &name("relu"), &[]));
        (x, inputs) = (name("relu"), outputs);
    }
    let mut height = height;
    let mut width = width;
    if height > 1 && width > 1 {
        let window = [ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
        graph.node.push(node("MaxPool", &[&x], "pool", &window));
        (x, height, width) = ("pool".into(), height / 2, width / 2);
    }
    graph.node.push(node("Flatten", &[&x], "flat", &[]));
    graph.initializer.push(filled("linear.weight", &[classes, inputs * height * width], 0.0));
    graph.initializer.push(filled("linear.bias", &[classes], 0.0));
    let transposed =
        proto::Attribute { name: "transB".into(), i: Some(1), r#type: attribute_type::INT, ..Default::default() };
    graph.node.push(node("Gemm", &["flat", "linear.weight", "linear.bias"], "logits", &[transposed]));
    let model = proto::Model {
        ir_version: crate::export::IR_VERSION,
        producer_name: "skein".into(),
        graph: Some(graph),
        opset_import: vec![proto::OperatorSet { domain: String::new(), version: crate::export::OPSET }],
        functions: vec![],
    };
    model.encode_to_vec()
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[proto::Attribute]) -> proto::Node {
    proto::Node {
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        name: output.to_owned(),
        op_type: op.to_owned(),
        attribute: attributes.to_vec(),
        ..Default::default()
    }
}

fn ints(name: &str, values: &[i64]) -> proto::Attribute {
    proto::Attribute { name: name.into(), ints: values.to_vec(), r#type: attribute_type::INTS, ..Default::default() }
}

fn filled(name: &str, dims: &[i64], value: f32) -> proto::Tensor {
    let values = vec![value; dims.iter().product::<i64>() as usize];
    proto::Tensor {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: 1,
        raw_data: Bytes::copy_from_slice(bytemuck::cast_slice(&values)),
        ..Default::default()
    }
}

fn info(name: &str, sizes: &[Option<i64>]) -> proto::ValueInfo {
    let dim = |size: &Option<i64>| {
        let value = size.map_or_else(|| DimensionValue::Symbol("batch".into()), DimensionValue::Size);
        proto::Dimension { value: Some(value) }
    };
    let shape = proto::TensorShape { dim: sizes.iter().map(dim).collect() };
    let tensor = proto::TensorType { elem_type: 1, shape: Some(shape) };
    proto::ValueInfo { name: name.into(), r#type: Some(proto::Type { tensor_type: Some(tensor) }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, Options, TensorKind};

    #[test]
    fn it_can_be_trained() {
        let model = Model::parse(convolutional([1, 8, 8], 10).into(), &|_| Err(String::new())).expect("a model");
        let graph = model.training_graph(&Options::default()).expect("a graph");
        assert_eq!(graph.trained.len(), 8);
        assert_eq!(graph.statistics.len(), 4);
        let kind =
            |name: &str| model.parameters().iter().find(|tensor| tensor.name == name).expect("a known parameter").kind;
        assert_eq!(kind("blocks.1.conv.weight"), TensorKind::Weight { fan_in: 16 * 9 });
        assert_eq!(kind("blocks.1.norm.weight"), TensorKind::Scale);
        assert_eq!(kind("linear.weight"), TensorKind::Weight { fan_in: 32 * 4 * 4 });
        assert_eq!(kind("linear.bias"), TensorKind::Bias);
        assert_eq!(model.buffers()[1].kind, TensorKind::Variance);
    }
}

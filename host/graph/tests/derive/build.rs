//! Small ONNX files, written node by node.

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};

/// A file in the making.
pub(crate) struct Build {
    graph: GraphProto,
    opset: i64,
}

/// An attribute's value.
pub(crate) enum Value<'a> {
    Int(i64),
    Float(f32),
    Text(&'a str),
    Ints(&'a [i64]),
    Graph,
    Half,
}

impl Build {
    pub(crate) fn new(opset: i64) -> Build {
        Build { graph: GraphProto::default(), opset }
    }

    /// An input; sizes of 0 are known by the name `batch` only.
    pub(crate) fn input(mut self, name: &str, shape: &[i64]) -> Build {
        self.graph.input.push(info(name, shape));
        self
    }

    pub(crate) fn floats(mut self, name: &str, dims: &[i64], values: &[f64]) -> Build {
        self.graph.initializer.push(TensorProto {
            name: Some(name.into()),
            dims: dims.to_vec(),
            data_type: Some(DataType::FLOAT),
            float_data: values.iter().map(|value| *value as f32).collect(),
            ..Default::default()
        });
        self
    }

    pub(crate) fn integers(mut self, name: &str, dims: &[i64], values: &[i64]) -> Build {
        self.graph.initializer.push(TensorProto {
            name: Some(name.into()),
            dims: dims.to_vec(),
            data_type: Some(DataType::INT64),
            int64_data: values.to_vec(),
            ..Default::default()
        });
        self
    }

    /// An initializer as it is.
    pub(crate) fn tensor(mut self, tensor: TensorProto) -> Build {
        self.graph.initializer.push(tensor);
        self
    }

    /// A node; `inputs` and `outputs` are names separated by blanks, `_` an input left out.
    pub(crate) fn node(mut self, op: &str, inputs: &str, outputs: &str, attributes: &[(&str, Value<'_>)]) -> Build {
        let names = |text: &str| {
            text.split_whitespace().map(|name| if name == "_" { String::new() } else { name.to_owned() }).collect()
        };
        let (domain, op) = op.rsplit_once('.').unwrap_or(("", op));
        self.graph.node.push(NodeProto {
            domain: Some(domain.into()),
            op_type: Some(op.into()),
            name: Some(format!("node_{}", self.graph.node.len())),
            input: names(inputs),
            output: names(outputs),
            attribute: attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        });
        self
    }

    /// The file, with one output.
    pub(crate) fn output(mut self, name: &str) -> Vec<u8> {
        self.graph.output.push(ValueInfoProto { name: Some(name.into()), r#type: None });
        let model = ModelProto {
            ir_version: Some(9),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(self.opset) }],
            ..Default::default()
        };
        model.write_buf().expect("writing to memory can not fail")
    }
}

fn info(name: &str, shape: &[i64]) -> ValueInfoProto {
    let dim = |size: &i64| match size {
        0 => Dimension { dim_value: None, dim_param: Some("batch".into()) },
        size => Dimension { dim_value: Some(*size), dim_param: None },
    };
    let shape = TensorShapeProto { dim: shape.iter().map(dim).collect() };
    let tensor = TypeProtoTensor { elem_type: Some(DataType::FLOAT), shape: Some(shape) };
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type: Some(tensor), sequence: None }) }
}

fn attribute(name: &str, value: &Value<'_>) -> AttributeProto {
    let plain = AttributeProto { name: Some(name.into()), ..Default::default() };
    match value {
        Value::Int(i) => AttributeProto { i: Some(*i), r#type: Some(AttributeType::INT), ..plain },
        Value::Float(f) => AttributeProto { f: Some(*f), r#type: Some(AttributeType::FLOAT), ..plain },
        Value::Text(s) => AttributeProto { s: Some((*s).into()), r#type: Some(AttributeType::STRING), ..plain },
        Value::Ints(ints) => AttributeProto { ints: ints.to_vec(), r#type: Some(AttributeType::INTS), ..plain },
        Value::Graph => AttributeProto { g: Some(GraphProto::default()), r#type: Some(AttributeType::GRAPH), ..plain },
        Value::Half => {
            let half = TensorProto { data_type: Some(DataType::FLOAT16), ..Default::default() };
            AttributeProto { t: Some(half), r#type: Some(AttributeType::TENSOR), ..plain }
        }
    }
}

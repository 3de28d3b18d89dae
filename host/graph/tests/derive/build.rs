//! Small ONNX files, written node by node.

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};

/// A file under construction.
pub(crate) struct Build {
    graph: GraphProto,
    opset: i64,
}

/// Value of an attribute; `Graph` and `Half` are not supported.
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

    /// Adds an input; sizes of 0 are known by the name `batch` only.
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

    /// Adds a boolean without dimensions.
    pub(crate) fn truth(self, name: &str, value: bool) -> Build {
        let raw = Some(std::cell::RefCell::new(vec![u8::from(value)]));
        let name = Some(name.into());
        let data_type = Some(DataType::BOOL);
        self.tensor(TensorProto { name, dims: vec![], data_type, raw_data: raw, ..Default::default() })
    }

    /// Lists all initializers so far among the inputs, as files from before 2019 do.
    pub(crate) fn initializers_as_inputs(mut self) -> Build {
        let listed =
            self.graph.initializer.iter().map(|tensor| info(tensor.name.as_deref().unwrap_or(""), &tensor.dims));
        self.graph.input.extend(listed.collect::<Vec<_>>());
        self
    }

    /// Sets the names of all nodes so far.
    pub(crate) fn named(mut self, name: &str) -> Build {
        self.graph.node.iter_mut().for_each(|node| node.name = Some(name.into()));
        self
    }

    /// Adds an initializer as it is.
    pub(crate) fn tensor(mut self, tensor: TensorProto) -> Build {
        self.graph.initializer.push(tensor);
        self
    }

    /// Adds a node; `inputs` and `outputs` are names separated by blanks, `_` is an omitted input.
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

    /// Adds the only output and returns the file.
    pub(crate) fn output(mut self, name: &str) -> Vec<u8> {
        // Engines need the type, and infer the shape.
        let tensor = TypeProtoTensor { elem_type: Some(DataType::FLOAT), shape: None };
        let ty = TypeProto { tensor_type: Some(tensor), sequence: None };
        self.graph.output.push(ValueInfoProto { name: Some(name.into()), r#type: Some(ty) });
        let model = ModelProto {
            ir_version: Some(9),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(self.opset) }],
            ..Default::default()
        };
        model.write_buf().expect("writing to memory cannot fail")
    }
}

/// Encodes a message as field `field` of another: appended to a file, it becomes part of it.
pub(crate) fn message(field: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for mut number in [field << 3 | 2, content.len() as u64] {
        while number >= 128 {
            bytes.push(number as u8 | 128);
            number >>= 7;
        }
        bytes.push(number as u8);
    }
    bytes.extend(content);
    bytes
}

/// A file that defines `mine.Norm(a, scale, bias, mean, variance)`: a batch normalization in training mode.
pub(crate) fn with_normalizing_function(file: Vec<u8>) -> Vec<u8> {
    let texts = |field: u64, texts: &str| -> Vec<u8> {
        texts.split_whitespace().flat_map(|text| message(field, text.as_bytes())).collect()
    };
    // `training_mode`, an integer (type 2) that is 1.
    let attribute = [message(1, b"training_mode"), vec![3 << 3, 1, 0xa0, 1, 2]].concat();
    let node = [
        texts(1, "a scale bias mean variance"),
        texts(2, "y next_mean next_variance"),
        texts(3, "norm"),
        texts(4, "BatchNormalization"),
        message(5, &attribute),
    ];
    let function = [
        texts(1, "Norm"),
        texts(4, "a scale bias mean variance"),
        texts(5, "y"),
        message(7, &node.concat()),
        // Operator set 20.
        message(9, &[2 << 3, 20]),
        texts(10, "mine"),
    ];
    // The function, and the operator set of its domain.
    let set = [message(1, b"mine"), vec![2 << 3, 1]];
    [file, message(25, &function.concat()), message(8, &set.concat())].concat()
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

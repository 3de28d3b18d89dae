//! Converts the file's messages to attributes, tensors and nodes.

use bytes::Bytes;

use super::SourceNode;
use crate::attributes::{Attribute, Attributes};
use crate::constant::{Constant, ElementType};
use crate::dim::Dim;
use crate::error::{GraphError, Reason};
use crate::graph::Type;
use crate::operators;
use crate::proto::{self, DimensionValue, attribute_type};

/// Location of a tensor's values outside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalData {
    /// Path of the other file, relative to the model's folder.
    pub location: String,
    /// Position of the first byte in that file.
    pub offset: u64,
    /// Number of bytes to read.
    pub length: u64,
}

/// Fetches a tensor's values from another file, or returns the reason why it cannot.
pub type ReadExternal<'a> = dyn Fn(&ExternalData) -> Result<Bytes, String> + 'a;

/// The version of `ai.onnx` that a file uses.
pub(super) fn opset(model: &proto::Model, known: &std::ops::RangeInclusive<i64>) -> Result<i64, GraphError> {
    let own = model.opset_import.iter().find(|set| is_standard(&set.domain));
    let version = own.ok_or_else(|| GraphError::Malformed("it names no operator set of ai.onnx".into()))?.version;
    if known.contains(&version) {
        Ok(version)
    } else {
        let first = known.start();
        let last = known.end();
        let reason =
            format!("it uses operator set {version}; {first} to {last} are supported: export it with one of these");
        Err(GraphError::Malformed(reason))
    }
}

pub(super) fn is_standard(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

/// Properties in which PyTorch's newer exporter writes the names of the modules around a node, and their classes.
const SCOPES: [&str; 2] = ["pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"];

/// The module that a node was made from, as PyTorch prints it: `features.1: Dropout2d`.
///
/// Both properties are lists in Python's notation. They begin with the whole network and end with the operation.
fn layer(properties: &[proto::StringPair]) -> Option<String> {
    let [name, class] = SCOPES.map(|key| {
        let text = &properties.iter().find(|property| property.key == key)?.value;
        let parts: Vec<&str> = text.split('\'').skip(1).step_by(2).collect();
        parts.len().checked_sub(2).map(|layer| parts[layer])
    });
    let class = class?.rsplit('.').next()?;
    // The whole network has no name, and what belongs to no module has one that begins with `_`.
    let name = name.filter(|name| !name.is_empty() && !name.starts_with('_'))?;
    Some(format!("{name}: {class}"))
}

/// Why an operator is refused that is in no table.
fn unknown(operator: &str) -> Reason {
    match operator {
        "If" | "Loop" | "Scan" | "SequenceMap" => {
            "control flow cannot be differentiated: trace the model when exporting it".into()
        }
        "Bernoulli" | "Multinomial" | "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" => {
            "the only random numbers are those of dropout: use `nn.Dropout`, or one of `nn.Dropout1d` to `nn.Dropout3d`"
                .into()
        }
        _ => "there is no rule for this operator: express it with standard ones, or export the model without it".into(),
    }
}

/// Converts a node, whose operator must be supported.
pub(super) fn node(node: proto::Node) -> Result<SourceNode, GraphError> {
    let name = match (node.name.is_empty(), node.output.first()) {
        (false, _) => node.name,
        (true, output) => output.cloned().unwrap_or_default(),
    };
    let operator =
        if is_standard(&node.domain) { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) };
    let layer = layer(&node.metadata_props);
    let refuse = |reason: Reason| GraphError::node(&name, &operator, reason).with_layer(|_| layer.clone());
    let mut attributes = Attributes::default();
    for attribute in node.attribute {
        let key = attribute.name.clone();
        attributes = attributes.with(&key, self::attribute(attribute).map_err(refuse)?);
    }
    let op = operators::find(&operator).ok_or_else(|| refuse(unknown(&operator)))?;
    if node.output.is_empty() {
        return Err(refuse("it has no output".into()));
    }
    let name = name.into();
    Ok(SourceNode { name, op, layer, inputs: node.input, outputs: node.output, attributes })
}

fn attribute(attribute: proto::Attribute) -> Result<Attribute, Reason> {
    let name = attribute.name;
    // Before 2017 the type was not written: the field that is set determines it.
    let ty = match attribute.r#type {
        0 if attribute.g.is_some() => attribute_type::GRAPH,
        0 if attribute.t.is_some() => attribute_type::TENSOR,
        0 if !attribute.ints.is_empty() => attribute_type::INTS,
        0 if attribute.s.is_some() => attribute_type::STRING,
        0 if attribute.f.is_some() => attribute_type::FLOAT,
        0 => attribute_type::INT,
        ty => ty,
    };
    match ty {
        attribute_type::FLOAT => Ok(Attribute::Float(attribute.f.unwrap_or_default())),
        attribute_type::INT => Ok(Attribute::Int(attribute.i.unwrap_or_default())),
        attribute_type::STRING => {
            Ok(Attribute::Text(String::from_utf8_lossy(&attribute.s.unwrap_or_default()).into_owned()))
        }
        attribute_type::FLOATS => Ok(Attribute::Floats(attribute.floats)),
        attribute_type::INTS => Ok(Attribute::Ints(attribute.ints)),
        attribute_type::TENSOR => {
            let proto = attribute.t.ok_or_else(|| format!("its attribute `{name}` holds no tensor"))?;
            let inside = |_: &ExternalData| Err("attributes cannot have external data".to_owned());
            tensor(proto, &inside).map(Attribute::Tensor).map_err(|reason| format!("its attribute `{name}` {reason}"))
        }
        attribute_type::GRAPH => Err("it holds a graph: control flow cannot be differentiated; trace the model".into()),
        _ => Err(format!("its attribute `{name}` has a type that is not supported")),
    }
}

/// Converts a tensor, and reads external values.
pub(super) fn tensor(tensor: proto::Tensor, read: &super::ReadExternal<'_>) -> Result<Constant, Reason> {
    let ty = ElementType::of_code(tensor.data_type)?;
    let dims = tensor.dims.clone();
    let bytes = match tensor.data_location {
        proto::EXTERNAL => external(&tensor, ty, read)?,
        _ => inline(tensor, ty),
    };
    let count = bytes.len();
    Constant::new(ty, dims.clone(), bytes)
        .ok_or_else(|| format!("has {count} bytes, which do not fit its sizes {dims:?}: the file is damaged"))
}

fn inline(tensor: proto::Tensor, ty: ElementType) -> Bytes {
    if !tensor.raw_data.is_empty() {
        return tensor.raw_data;
    }
    let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    match ty {
        ElementType::F32 => copy(bytemuck::cast_slice(&tensor.float_data)),
        ElementType::F64 => copy(bytemuck::cast_slice(&tensor.double_data)),
        ElementType::I64 => copy(bytemuck::cast_slice(&tensor.int64_data)),
        ElementType::I32 => copy(bytemuck::cast_slice(&tensor.int32_data)),
        ElementType::U8 | ElementType::Bool => tensor.int32_data.iter().map(|value| *value as u8).collect(),
    }
}

fn external(tensor: &proto::Tensor, ty: ElementType, read: &super::ReadExternal<'_>) -> Result<Bytes, Reason> {
    let find = |key: &str| tensor.external_data.iter().find(|pair| pair.key == key).map(|pair| pair.value.as_str());
    let number = |key: &str| find(key).map(|value| value.parse::<u64>().map_err(|_| format!("has a bad `{key}`")));
    let size = tensor.dims.iter().try_fold(ty.size() as u64, |size, dim| size.checked_mul(u64::try_from(*dim).ok()?));
    let size = size.ok_or_else(|| format!("has invalid sizes {:?}", tensor.dims))?;
    let data = ExternalData {
        location: find("location").ok_or("has external data without a location")?.to_owned(),
        offset: number("offset").transpose()?.unwrap_or(0),
        length: number("length").transpose()?.unwrap_or(size),
    };
    read(&data).map_err(|reason| format!("has its values in `{}`: {reason}", data.location))
}

/// Name and type of an input. Unknown sizes are named after the input and the axis.
pub(super) fn input(info: proto::ValueInfo) -> Result<(String, Type), GraphError> {
    let name = info.name;
    let refuse = |reason: &str| GraphError::Tensor { name: name.clone(), reason: reason.to_owned() };
    let ty = info.r#type.and_then(|ty| ty.tensor_type).ok_or_else(|| refuse("is not a tensor"))?;
    let element = ElementType::of_code(ty.elem_type).map_err(|reason| refuse(&reason))?;
    let shape = ty.shape.ok_or_else(|| refuse("has no shape: export the model with the shapes of its inputs"))?;
    let dim = |(axis, dim): (usize, proto::Dimension)| match dim.value {
        Some(DimensionValue::Size(size)) if size > 0 => Dim::from(size),
        Some(DimensionValue::Symbol(symbol)) if !symbol.is_empty() => Dim::symbol(&symbol),
        _ => Dim::symbol(&format!("{name}.{axis}")),
    };
    let shape = shape.dim.into_iter().enumerate().map(dim).collect();
    Ok((name, Type::new(element, shape)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_the_names_of_pytorch() {
        let of = |scopes: &str, classes: &str| {
            let property = |(key, value): (&str, &str)| proto::StringPair { key: key.into(), value: value.into() };
            layer(&[(SCOPES[0], scopes), (SCOPES[1], classes)].map(property))
        };
        let classes =
            "['net.Net', 'torch.nn.modules.container.Sequential', 'torch.nn.modules.dropout.AlphaDropout', 'aten.add']";
        assert_eq!(of("['', 'body', 'body.2', 'add']", classes).as_deref(), Some("body.2: AlphaDropout"));
        assert_eq!(of("['', 'add']", "['net.Net', 'aten.add']"), None, "the network itself");
        assert_eq!(of("['_empty', 'add']", "['_empty', 'aten.add']"), None, "no module");
        assert_eq!(of("", "['"), None);
    }
}

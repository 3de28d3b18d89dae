//! A model's file after training: its own graph for evaluation, with other values.
//!
//! The graph is the file's but for what training needs. Functions are replaced by what they do, since not every engine
//! knows them, and a running statistic that nodes shared is each node's own, as it was trained.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::decode::is_standard;
use super::unfolded;
use crate::constant::ElementType;
use crate::error::GraphError;
use crate::proto;

/// A model's file with other values for its parameters and statistics of those names, in evaluation mode: batch
/// normalizations go by their running statistics, and dropout drops nothing.
///
/// # Errors
/// [`GraphError`]: the file is no model, or a tensor has another number of values.
pub fn trained_file(file: Bytes, values: &BTreeMap<String, Vec<f32>>) -> Result<Vec<u8>, GraphError> {
    let malformed = |error: prost::DecodeError| GraphError::Malformed(error.to_string());
    let mut model = proto::Model::decode(file).map_err(malformed)?;
    let mut graph = unfolded(model.graph.take(), &model.functions)?;
    model.functions.clear();
    set_values(&mut graph, values)?;
    let left = graph.node.iter_mut().filter(|node| is_standard(&node.domain)).flat_map(evaluating).collect();
    graph.drop_unused(left);
    // Functions came from domains of their own.
    model
        .opset_import
        .retain(|set| is_standard(&set.domain) || graph.node.iter().any(|node| node.domain == set.domain));
    model.graph = Some(graph);
    Ok(model.encode_to_vec())
}

fn set_values(graph: &mut proto::Graph, values: &BTreeMap<String, Vec<f32>>) -> Result<(), GraphError> {
    for own in &mut graph.initializer {
        let Some(new) = values.get(&own.name) else { continue };
        let count = own.dims.iter().try_fold(1i64, |count, size| count.checked_mul(*size));
        if count != i64::try_from(new.len()).ok() {
            let reason = format!("has the sizes {:?}, which {} values do not fit", own.dims, new.len());
            return Err(GraphError::Tensor { name: own.name.clone(), reason });
        }
        *own = proto::Tensor {
            dims: own.dims.clone(),
            data_type: ElementType::F32.code(),
            name: own.name.clone(),
            raw_data: Bytes::copy_from_slice(bytemuck::cast_slice(new)),
            ..Default::default()
        };
    }
    Ok(())
}

/// Takes from a node what makes it train, and gives the inputs that it no longer has.
fn evaluating(node: &mut proto::Node) -> Vec<String> {
    match &*node.op_type {
        // Since operator set 14 an attribute tells, which is 0 if it is missing; before, the number of outputs.
        "BatchNormalization" => {
            node.attribute.retain(|attribute| attribute.name != "training_mode");
            node.output.truncate(1);
            Vec::new()
        }
        // The third input tells since operator set 12; before, it never trained. The second output is the mask.
        "Dropout" => {
            node.output.truncate(1);
            node.input.split_off(node.input.len().min(2))
        }
        _ => Vec::new(),
    }
}

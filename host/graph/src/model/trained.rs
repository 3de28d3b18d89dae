//! A model's file after training: its graph in evaluation mode, with the trained values.
//!
//! Besides the mode, the graph differs from the original in two ways. Functions are inlined, since not every engine
//! supports them, and running statistics that nodes shared are split per node, as they were trained.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::decode::{self, is_standard};
use super::{OPSETS, unfolded};
use crate::constant::ElementType;
use crate::error::GraphError;
use crate::proto;

/// Returns a model's file with `values` for the parameters and statistics of those names, in evaluation mode: batch
/// normalizations use their running statistics, and dropout drops nothing.
///
/// # Errors
/// [`GraphError`]: the file is not a model, or a tensor has a different number of values.
pub fn trained_file(file: Bytes, values: &BTreeMap<String, Vec<f32>>) -> Result<Vec<u8>, GraphError> {
    let malformed = |error: prost::DecodeError| GraphError::Malformed(error.to_string());
    let mut model = proto::Model::decode(file).map_err(malformed)?;
    let opset = decode::opset(&model, &OPSETS)?;
    let mut graph = unfolded(model.graph.take(), &model.functions, opset)?;
    model.functions.clear();
    // They name the source files of who exported the model.
    graph.node.iter_mut().for_each(|node| node.metadata_props.clear());
    set_values(&mut graph, values)?;
    let left = graph.node.iter_mut().filter(|node| is_standard(&node.domain)).flat_map(evaluating).collect();
    graph.drop_unused(left);
    // The domains of inlined functions are no longer used.
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
            let reason = format!("has sizes {:?}, which do not fit {} values", own.dims, new.len());
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

/// Switches a node to evaluation mode, and returns the inputs that it no longer has.
fn evaluating(node: &mut proto::Node) -> Vec<String> {
    match &*node.op_type {
        // Since operator set 14 an attribute sets the mode, 0 if it is missing; before, the number of outputs did.
        "BatchNormalization" => {
            node.attribute.retain(|attribute| attribute.name != "training_mode");
            node.output.truncate(1);
            Vec::new()
        }
        // Since operator set 12 the third input sets the mode; before, dropout never trained. The second output is a mask.
        "Dropout" => {
            node.output.truncate(1);
            node.input.split_off(node.input.len().min(2))
        }
        _ => Vec::new(),
    }
}

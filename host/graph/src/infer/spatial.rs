//! Convolutions and pools: windows that slide over the last dimensions of `[N, C, ..]`.

use super::{Operands, one};
use crate::attributes::Attributes;
use crate::constant::ElementType;
use crate::dim::{Dim, text};
use crate::error::Reason;
use crate::graph::Type;

pub(super) fn types(op: &str, operands: &Operands<'_>) -> Option<Result<Vec<Type>, Reason>> {
    Some(match op {
        "Conv" => conv(operands),
        "ConvTranspose" => conv_transpose(operands),
        "MaxPool" => pool(operands).map(|ty| {
            let indices = Type::new(ElementType::I64, ty.shape.clone());
            if operands.attributes.int("indices", 0) == 1 { vec![ty, indices] } else { vec![ty] }
        }),
        "AveragePool" => pool(operands).map(|ty| vec![ty]),
        _ => return None,
    })
}

/// Geometry of a sliding window, per spatial dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) kernel: Vec<i64>,
    pub(crate) strides: Vec<i64>,
    pub(crate) dilations: Vec<i64>,
    pub(crate) begins: Vec<i64>,
    pub(crate) ends: Vec<i64>,
    pub(crate) is_ceil: bool,
}

impl Window {
    /// The window that a node's attributes describe, over a kernel of the given sizes.
    pub(crate) fn of(attributes: &Attributes, kernel: &[i64]) -> Result<Window, Reason> {
        let rank = kernel.len();
        let read = |name: &str, count: usize, default: i64, least: i64| {
            let values = attributes.ints(name).map_or_else(|| vec![default; count], <[i64]>::to_vec);
            let is_sound = values.len() == count && values.iter().all(|v| (least..1 << 31).contains(v));
            if is_sound { Ok(values) } else { Err(format!("its attribute `{name}` has invalid values {values:?}")) }
        };
        let pads = read("pads", 2 * rank, 0, 0)?;
        if rank == 0 || kernel.iter().any(|size| !(1..1 << 31).contains(size)) {
            return Err(format!("its kernel has invalid sizes {kernel:?}"));
        }
        Ok(Window {
            kernel: kernel.to_vec(),
            strides: read("strides", rank, 1, 1)?,
            dilations: read("dilations", rank, 1, 1)?,
            begins: pads[..rank].to_vec(),
            ends: pads[rank..].to_vec(),
            is_ceil: attributes.int("ceil_mode", 0) == 1,
        })
    }

    /// Elements from the first to the last that the window touches, along `axis`.
    pub(crate) fn span(&self, axis: usize) -> i64 {
        self.dilations[axis] * (self.kernel[axis] - 1) + 1
    }

    /// Size of the result for `size` elements along `axis`.
    pub(crate) fn output(&self, axis: usize, size: i64) -> Result<i64, Reason> {
        let room = size + self.begins[axis] + self.ends[axis] - self.span(axis);
        if room < 0 {
            return Err(format!("its window of {} does not fit into {size} padded elements", self.span(axis)));
        }
        let stride = self.strides[axis];
        let count = if self.is_ceil { (room + stride - 1) / stride + 1 } else { room / stride + 1 };
        // A last window that would start in the padding after the end is left out.
        let is_past = self.is_ceil && (count - 1) * stride >= size + self.begins[axis];
        Ok(if is_past { count - 1 } else { count })
    }

    /// Elements after the last window, along `axis`.
    pub(crate) fn rest(&self, axis: usize, size: i64) -> i64 {
        (size + self.begins[axis] + self.ends[axis] - self.span(axis)) % self.strides[axis]
    }

    /// Pads in the attribute's order: all begins, then all ends.
    pub(crate) fn pads(&self) -> Vec<i64> {
        [&self.begins[..], &self.ends[..]].concat()
    }

    pub(crate) fn is_padded(&self) -> bool {
        self.begins.iter().chain(&self.ends).any(|pad| *pad != 0)
    }

    pub(crate) fn is_dense(&self) -> bool {
        self.strides.iter().all(|stride| *stride == 1)
    }
}

/// Sizes of the spatial dimensions, which must be known.
fn spatial_sizes(shape: &[Dim]) -> Result<Vec<i64>, Reason> {
    let unknown = shape.iter().skip(2).find(|dim| dim.fixed().is_none());
    match unknown {
        Some(dim) => Err(format!("the size `{dim}` in {} must be known: set the model's input sizes", text(shape))),
        None => Ok(shape.iter().skip(2).filter_map(Dim::fixed).collect()),
    }
}

fn conv(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let x = operands.float_shape(0)?;
    let w = operands.float_shape(1)?;
    let sizes = spatial_sizes(x)?;
    let group = operands.attributes.int("group", 1);
    let misfit = || format!("an input of {} does not fit a weight of {} in {group} groups", text(x), text(w));
    if x.len() != w.len() || x.len() < 3 || group < 1 {
        return Err(misfit());
    }
    // In the gradient of a weight the batch takes the place of the channels, so their number may be unknown.
    let is_divided = w[0].fixed().is_none_or(|outputs| outputs % group == 0);
    if w[1].times(&Dim::from(group)).as_ref() != Some(&x[1]) || !is_divided {
        return Err(misfit());
    }
    let kernel = spatial_sizes(w)?;
    if operands.optional(2).is_some() && operands.float_shape(2)? != &w[..1] {
        return Err(format!("its bias has shape {}, expected [{}]", text(operands.shape(2)?), w[0]));
    }
    let window = Window::of(operands.attributes, &kernel)?;
    let mut shape = vec![x[0].clone(), w[0].clone()];
    for (axis, size) in sizes.iter().enumerate() {
        shape.push(Dim::from(window.output(axis, *size)?));
    }
    one(ElementType::F32, shape)
}

fn conv_transpose(operands: &Operands<'_>) -> Result<Vec<Type>, Reason> {
    let x = operands.float_shape(0)?;
    let w = operands.float_shape(1)?;
    let sizes = spatial_sizes(x)?;
    let weights = crate::dim::fixed(w).ok_or("the sizes of its weight are not known")?;
    let group = operands.attributes.int("group", 1);
    if x.len() != w.len() || x.len() < 3 || group < 1 || x[1] != w[0] || weights[0] % group != 0 {
        return Err(format!("an input of {} does not fit a weight of {} in {group} groups", text(x), text(w)));
    }
    let window = Window::of(operands.attributes, &weights[2..])?;
    let extra = operands.attributes.ints("output_padding").map_or_else(|| vec![0; sizes.len()], <[i64]>::to_vec);
    let channels = weights[1].checked_mul(group).ok_or("it has too many channels")?;
    let mut shape = vec![x[0].clone(), Dim::from(channels)];
    for (axis, size) in sizes.iter().enumerate() {
        let extra = extra.get(axis).ok_or("its output padding lacks a dimension")?;
        let full = (size - 1) * window.strides[axis] + window.span(axis) + extra;
        shape.push(Dim::from(full - window.begins[axis] - window.ends[axis]));
    }
    one(ElementType::F32, shape)
}

fn pool(operands: &Operands<'_>) -> Result<Type, Reason> {
    let x = operands.float_shape(0)?;
    let sizes = spatial_sizes(x)?;
    let kernel = operands.attributes.ints("kernel_shape").unwrap_or_default();
    if x.len() < 3 || kernel.len() + 2 != x.len() {
        return Err(format!("a kernel of {kernel:?} does not fit an input of {}", text(x)));
    }
    let window = Window::of(operands.attributes, kernel)?;
    let mut shape = x[..2].to_vec();
    for (axis, size) in sizes.iter().enumerate() {
        shape.push(Dim::from(window.output(axis, *size)?));
    }
    Ok(Type::new(ElementType::F32, shape))
}

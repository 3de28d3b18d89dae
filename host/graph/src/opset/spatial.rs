//! Convolutions, pools and resizing: pads resolved, every attribute written out.

use super::movement::expand;
use super::{Call, Outputs};
use crate::attributes::Attributes;
use crate::dim::Dim;
use crate::error::Reason;

pub(super) fn apply(call: &mut Call<'_>) -> Outputs {
    match call.node.op {
        "Conv" => convolution(call),
        "ConvTranspose" => transposed(call),
        "MaxPool" => {
            if call.node.outputs.len() > 1 {
                return Err("its second output, the positions, is used: it has no rule".into());
            }
            let attributes = pool(call)?;
            call.with(attributes.with("storage_order", 0))
        }
        "AveragePool" => {
            let includes = call.int("count_include_pad", 0);
            let attributes = pool(call)?;
            call.with(attributes.with("count_include_pad", includes))
        }
        "Resize" => resize(call),
        global => {
            let x = call.input(0)?;
            let axes: Vec<usize> = (2..call.tape.graph.rank(x)).collect();
            let op = if global == "GlobalMaxPool" { "ReduceMax" } else { "ReduceMean" };
            Ok(vec![call.reduce(op, x, &axes, true)?])
        }
    }
}

fn convolution(call: &mut Call<'_>) -> Outputs {
    let kernel = kernel_of_weight(call)?;
    let attributes = window(call, &kernel)?.with("group", call.int("group", 1));
    // Drops a bias of zeros, which exporters write for a convolution without a bias.
    if call.optional(2).and_then(|bias| call.tape.graph.uniform_of(bias)) == Some(0.0) {
        call.inputs.truncate(2);
    }
    call.with(attributes)
}

fn transposed(call: &mut Call<'_>) -> Outputs {
    let kernel = kernel_of_weight(call)?;
    if call.node.attributes.get("output_shape").is_some() {
        return Err("it has `output_shape`: export it with pads and `output_padding`".into());
    }
    let extra = call.node.attributes.ints("output_padding").map_or_else(|| vec![0; kernel.len()], <[i64]>::to_vec);
    let attributes = window(call, &kernel)?.with("group", call.int("group", 1)).with("output_padding", extra);
    call.with(attributes)
}

fn kernel_of_weight(call: &Call<'_>) -> Result<Vec<i64>, Reason> {
    let weight = call.tape.graph.fixed_shape(call.input(1)?).ok_or("the sizes of its weight are not known")?;
    Ok(weight.get(2..).unwrap_or_default().to_vec())
}

fn pool(call: &Call<'_>) -> Result<Attributes, Reason> {
    let kernel = call.node.attributes.ints("kernel_shape").ok_or("it has no kernel")?.to_vec();
    Ok(window(call, &kernel)?.with("ceil_mode", call.int("ceil_mode", 0)))
}

/// Kernel, strides, dilations and pads, with `auto_pad` turned into pads.
fn window(call: &Call<'_>, kernel: &[i64]) -> Result<Attributes, Reason> {
    let ones = || vec![1; kernel.len()];
    let read = |name: &str| call.node.attributes.ints(name).map_or_else(ones, <[i64]>::to_vec);
    let strides = read("strides");
    let dilations = read("dilations");
    let given = call.node.attributes.ints("pads").map_or_else(|| vec![0; 2 * kernel.len()], <[i64]>::to_vec);
    let pads = match call.node.attributes.text("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" | "" => given,
        "VALID" => vec![0; 2 * kernel.len()],
        mode @ ("SAME_UPPER" | "SAME_LOWER") if call.node.op != "ConvTranspose" => {
            let shape = call.tape.graph.fixed_shape_from(call.input(0)?, 2).ok_or("its input has unknown sizes")?;
            if [&strides, &dilations, &shape].iter().any(|values| values.len() != kernel.len()) {
                return Err("its attributes do not fit its input".into());
            }
            let padding = |axis: usize| same_padding(shape[axis], kernel[axis], strides[axis], dilations[axis]);
            let totals: Option<Vec<i64>> = (0..kernel.len()).map(padding).collect();
            let totals = totals.ok_or("its pads are too large")?;
            let small = totals.iter().map(|total| total / 2);
            let large = totals.iter().map(|total| total - total / 2);
            if mode == "SAME_UPPER" { small.chain(large).collect() } else { large.chain(small).collect() }
        }
        other => return Err(format!("its `auto_pad` is `{other}`: export it with pads")),
    };
    Ok(Attributes::default()
        .with("kernel_shape", kernel.to_vec())
        .with("strides", strides)
        .with("dilations", dilations)
        .with("pads", pads))
}

/// Padding of an axis, before and after it together, that makes the result as large as the input divided by the stride,
/// rounded up; `None` if a number overflows.
fn same_padding(size: i64, kernel: i64, stride: i64, dilation: i64) -> Option<i64> {
    let stride = stride.max(1);
    let count = size.checked_add(stride - 1)? / stride;
    let span = dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
    Some(((count - 1).checked_mul(stride)?.checked_add(span)? - size).max(0))
}

/// Nearest-neighbour enlargement by whole factors, as repetition.
fn resize(call: &mut Call<'_>) -> Outputs {
    let x = call.input(0)?;
    let shape = call.tape.graph.shape(x).to_vec();
    let mode = call.node.attributes.text("mode").unwrap_or("nearest").to_owned();
    let refused = || format!("it resizes by mode `{mode}`: only `nearest` by whole factors has a rule");
    let scales = call.optional(2).and_then(|id| call.tape.graph.constant_of(id)?.to_floats());
    let sizes = call.optional(3).and_then(|id| call.tape.graph.value(id).sizes.clone());
    let factors: Option<Vec<i64>> = match (scales.filter(|scales| !scales.is_empty()), sizes) {
        (Some(scales), _) => scales.iter().map(|s| (s.fract() == 0.0 && *s >= 1.0).then_some(*s as i64)).collect(),
        (None, Some(sizes)) if sizes.len() == shape.len() => {
            sizes.iter().zip(&shape).map(|(size, own)| size.over(own)?.fixed()).collect()
        }
        _ => None,
    };
    let factors = factors.filter(|factors| factors.len() == shape.len() && mode == "nearest").ok_or_else(refused)?;
    let coordinates = call.node.attributes.text("coordinate_transformation_mode").unwrap_or("half_pixel");
    let rounding = call.node.attributes.text("nearest_mode").unwrap_or("round_prefer_floor");
    // With these two modes whole factors repeat each element; others shift by half an element.
    let repeats = matches!((coordinates, rounding), ("asymmetric", "floor") | ("half_pixel", "round_prefer_floor"));
    if !repeats && factors.iter().any(|factor| *factor != 1) {
        return Err(format!("it resizes with `{coordinates}` and `{rounding}`, which does not repeat elements"));
    }
    let interleave = |factor: &dyn Fn(usize) -> Dim| -> Vec<Dim> {
        (0..shape.len()).flat_map(|axis| [shape[axis].clone(), factor(axis)]).collect()
    };
    let apart = call.reshape(x, &interleave(&|_| Dim::from(1)))?;
    let repeated = expand(call, apart, &interleave(&|axis| Dim::from(factors[axis])))?;
    let enlarged: Option<Vec<Dim>> = shape.iter().zip(&factors).map(|(dim, f)| dim.times(&Dim::from(*f))).collect();
    Ok(vec![call.reshape(repeated, &enlarged.ok_or_else(refused)?)?])
}

//! Computes convolutions and pools by their definitions.

use super::interpret::{Array, Attributes, flat, indices, strides};

/// Kernel, strides, dilations and pads.
struct Window {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<usize>,
}

impl Window {
    fn of(attributes: &Attributes<'_>) -> Window {
        let ints = |name| attributes.ints(name);
        Window {
            kernel: ints("kernel_shape"),
            strides: ints("strides"),
            dilations: ints("dilations"),
            pads: ints("pads"),
        }
    }

    fn output(&self, sizes: &[usize], is_ceil: bool) -> Vec<usize> {
        let rank = sizes.len();
        let size = |axis: usize| {
            let span = self.dilations[axis] * (self.kernel[axis] - 1) + 1;
            let room = sizes[axis] + self.pads[axis] + self.pads[axis + rank] - span;
            let stride = self.strides[axis];
            let count = if is_ceil { room.div_ceil(stride) + 1 } else { room / stride + 1 };
            if is_ceil && (count - 1) * stride >= sizes[axis] + self.pads[axis] { count - 1 } else { count }
        };
        (0..rank).map(size).collect()
    }

    /// The element that a tap of a window reads, if it is not padding.
    fn position(&self, at: &[usize], tap: &[usize], sizes: &[usize]) -> Option<Vec<usize>> {
        let along = |axis: usize| {
            let padded = at[axis] * self.strides[axis] + tap[axis] * self.dilations[axis];
            padded.checked_sub(self.pads[axis]).filter(|position| *position < sizes[axis])
        };
        (0..sizes.len()).map(along).collect()
    }
}

pub(crate) fn conv(x: &Array, weight: &Array, bias: Option<&Array>, attributes: &Attributes<'_>) -> Array {
    let window = Window::of(attributes);
    let group = attributes.int("group") as usize;
    let outputs = weight.dims[0];
    let inputs = weight.dims[1];
    let sizes = &x.dims[2..];
    let dims = [&[x.dims[0], outputs], &window.output(sizes, false)[..]].concat();
    let x_steps = strides(&x.dims);
    let w_steps = strides(&weight.dims);
    let taps = indices(&window.kernel);
    let value = |index: &Vec<usize>| {
        let sample = index[0];
        let output = index[1];
        let first = output / (outputs / group) * inputs;
        let mut sum = bias.map_or(0.0, |bias| bias.values[output]);
        for tap in &taps {
            let Some(position) = window.position(&index[2..], tap, sizes) else { continue };
            for input in 0..inputs {
                let from = flat(&x_steps, &[&[sample, first + input], &position[..]].concat());
                let by = flat(&w_steps, &[&[output, input], &tap[..]].concat());
                sum += x.values[from] * weight.values[by];
            }
        }
        sum
    };
    Array::new(&dims, indices(&dims).iter().map(value).collect())
}

pub(crate) fn conv_transpose(x: &Array, weight: &Array, bias: Option<&Array>, attributes: &Attributes<'_>) -> Array {
    let window = Window::of(attributes);
    let group = attributes.int("group") as usize;
    let extra = attributes.ints("output_padding");
    let inputs = weight.dims[0];
    let outputs = weight.dims[1];
    let rank = x.dims.len() - 2;
    let size = |axis: usize| {
        let span = window.dilations[axis] * (window.kernel[axis] - 1) + 1;
        (x.dims[axis + 2] - 1) * window.strides[axis] + span + extra[axis]
            - window.pads[axis]
            - window.pads[axis + rank]
    };
    let sizes: Vec<usize> = (0..rank).map(size).collect();
    let dims = [&[x.dims[0], outputs * group], &sizes[..]].concat();
    let steps = strides(&dims);
    let mut result = vec![0.0; dims.iter().product()];
    let taps = indices(&window.kernel);
    let w_steps = strides(&weight.dims);
    for (index, value) in indices(&x.dims).iter().zip(&x.values) {
        let first = index[1] / (inputs / group) * outputs;
        for tap in &taps {
            let Some(position) = window.position(&index[2..], tap, &sizes) else { continue };
            for output in 0..outputs {
                let to = flat(&steps, &[&[index[0], first + output], &position[..]].concat());
                result[to] += value * weight.values[flat(&w_steps, &[&[index[1], output], &tap[..]].concat())];
            }
        }
    }
    if let Some(bias) = bias {
        indices(&dims).iter().for_each(|index| result[flat(&steps, index)] += bias.values[index[1]]);
    }
    Array::new(&dims, result)
}

pub(crate) fn max_pool(x: &Array, attributes: &Attributes<'_>) -> Vec<Array> {
    let window = Window::of(attributes);
    let sizes = &x.dims[2..];
    let dims = [&x.dims[..2], &window.output(sizes, attributes.int("ceil_mode") == 1)].concat();
    let steps = strides(&x.dims);
    let taps = indices(&window.kernel);
    let best = |index: &Vec<usize>| {
        let met = taps.iter().filter_map(|tap| window.position(&index[2..], tap, sizes));
        let flat = met.map(|position| flat(&steps, &[&index[..2], &position].concat()));
        flat.reduce(|best, at| if x.values[at] > x.values[best] { at } else { best })
            .expect("every window reads an element")
    };
    let chosen: Vec<usize> = indices(&dims).iter().map(best).collect();
    let values = chosen.iter().map(|at| x.values[*at]).collect();
    vec![Array::new(&dims, values), Array::integers(&dims, chosen.iter().map(|at| *at as f64).collect())]
}

pub(crate) fn average_pool(x: &Array, attributes: &Attributes<'_>) -> Array {
    let window = Window::of(attributes);
    let sizes = &x.dims[2..];
    let includes = attributes.int("count_include_pad") == 1;
    let dims = [&x.dims[..2], &window.output(sizes, attributes.int("ceil_mode") == 1)].concat();
    let steps = strides(&x.dims);
    let taps = indices(&window.kernel);
    let mean = |index: &Vec<usize>| {
        let met: Vec<_> = taps.iter().filter_map(|tap| window.position(&index[2..], tap, sizes)).collect();
        let sum: f64 = met.iter().map(|position| x.values[flat(&steps, &[&index[..2], position].concat())]).sum();
        sum / if includes { taps.len() } else { met.len() } as f64
    };
    Array::new(&dims, indices(&dims).iter().map(mean).collect())
}

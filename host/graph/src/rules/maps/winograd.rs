//! 3×3 convolutions with fewer products (Toom and Cook; Winograd, 1980; Lavin and Gray, 2016), as matrix products.
//!
//! F(m, 3) computes m outputs of a filter of three taps from n = m + 2 products: `y = A·((G·w) ∘ (B·d))`. In two
//! dimensions the matrices are Kronecker squares; products over channels and batch are one batched matrix product.

use super::convolution::Conv;
use super::positions::pick;
use super::{gemm, step, step_reshape};
use crate::attributes::Attributes;
use crate::constant::Constant;
use crate::dim::Dim;
use crate::error::Reason;
use crate::graph::ValueId;
use crate::ops::Emitted;
use crate::tape::Tape;

/// Input times output channels from which transforming a whole small map pays off.
const SMALL_CHANNELS_MIN: i64 = 4096;
/// Input and output channels from which tiles pay off.
const TILED_CHANNELS_MIN: i64 = 64;
/// Outputs of a tile along each axis.
const TILE: i64 = 4;

/// The matrices `A`, `G` and `B`, row by row.
struct Matrices {
    outputs: Vec<Vec<f64>>,
    filter: Vec<Vec<f64>>,
    data: Vec<Vec<f64>>,
}

/// Points of F(m, 3), chosen for small errors: 1.2e-6 relative for 128 channels and m = 4; 0, ±1, ±2 yield 2.9e-6.
fn points(m: i64) -> Vec<f64> {
    match m {
        2 => vec![0.0, 1.0, -1.0],
        3 => vec![0.0, 1.0, -1.0, -0.5],
        _ => vec![0.0, 2.0 / 3.0, -2.0 / 3.0, 1.5, -1.5],
    }
}

/// Coefficients of the product of `x − root`, lowest first.
fn polynomial(roots: impl Iterator<Item = f64>) -> Vec<f64> {
    roots.fold(vec![1.0], |coefficients, root| {
        let mut next = vec![0.0; coefficients.len() + 1];
        for (power, coefficient) in coefficients.iter().enumerate() {
            next[power] -= root * coefficient;
            next[power + 1] += coefficient;
        }
        next
    })
}

/// F(m, 3) by interpolation at `points(m)` and infinity.
fn matrices(m: i64) -> Matrices {
    let points = points(m);
    let n = points.len() + 1;
    let others = |j: usize| points.iter().enumerate().filter(move |(l, _)| *l != j).map(|(_, point)| *point);
    let scale = |j: usize| others(j).map(|other| points[j] - other).product::<f64>();
    let mut filter: Vec<Vec<f64>> =
        (0..n - 1).map(|j| (0..3).map(|k| points[j].powi(k) / scale(j)).collect()).collect();
    filter.push(vec![0.0, 0.0, 1.0]);
    let mut data: Vec<Vec<f64>> = (0..n - 1)
        .map(|j| {
            let mut row = polynomial(others(j));
            row.resize(n, 0.0);
            row
        })
        .collect();
    data.push(polynomial(points.iter().copied()));
    let outputs = (0..m)
        .map(|i| {
            let powers = points.iter().map(|point| point.powi(i as i32));
            powers.chain([f64::from(u8::from(i == m - 1))]).collect()
        })
        .collect();
    Matrices { outputs, filter, data }
}

/// The Kronecker square of a matrix, as a constant of 32-bit floats.
fn square(tape: &mut Tape, matrix: &[Vec<f64>]) -> ValueId {
    let rows = matrix.len();
    let columns = matrix[0].len();
    let mut values = Vec::with_capacity(rows * rows * columns * columns);
    for (a, b) in (0..rows).flat_map(|a| (0..rows).map(move |b| (a, b))) {
        for (c, d) in (0..columns).flat_map(|c| (0..columns).map(move |d| (c, d))) {
            values.push((matrix[a][c] * matrix[b][d]) as f32);
        }
    }
    let dims = [(rows * rows) as i64, (columns * columns) as i64];
    tape.graph.constant(Constant::floats(&dims, &values))
}

/// The convolution of `[C, positions, N]`; `None` if its geometry does not benefit.
pub(super) fn forward(tape: &mut Tape, conv: &Conv) -> Result<Option<ValueId>, Reason> {
    let window = &conv.window;
    let map = &conv.map;
    let is_fitting = window.kernel == [3, 3]
        && window.is_dense()
        && window.pads() == [1; 4]
        && window.dilations == [1, 1]
        && matches!(map.sizes[..], [height, width] if height == width);
    let size = map.sizes.first().copied().unwrap_or(0);
    match size {
        _ if !is_fitting || map.is_input => Ok(None),
        2..=4 if map.channels * conv.outputs >= SMALL_CHANNELS_MIN => whole(tape, conv, size).map(Some),
        8 | 16 if map.channels.min(conv.outputs) >= TILED_CHANNELS_MIN => tiled(tape, conv, size).map(Some),
        _ => Ok(None),
    }
}

fn transpose(tape: &mut Tape, x: ValueId, perm: &[i64]) -> Emitted {
    tape.step("Transpose", &[x], Attributes::default().with("perm", perm.to_vec()))
}

/// The transformed filters: `[products, O, C]`.
fn filters(tape: &mut Tape, conv: &Conv, matrices: &Matrices) -> Emitted {
    let outputs = conv.outputs;
    let channels = conv.map.channels;
    let flat = step_reshape(tape, conv.weight, &[outputs.into(), channels.into(), 9.into()])?;
    let turned = transpose(tape, flat, &[2, 0, 1])?;
    let rows = step_reshape(tape, turned, &[9.into(), (outputs * channels).into()])?;
    let factor = square(tape, &matrices.filter);
    let transformed = gemm(tape, factor, rows, None)?;
    let products = (matrices.filter.len() * matrices.filter.len()) as i64;
    step_reshape(tape, transformed, &[products.into(), outputs.into(), channels.into()])
}

/// Tiles of a map, side by side.
struct Tiles {
    /// Shape `[elements, C, columns]`, with a column for each tile of each sample.
    data: ValueId,
    /// The matrix that transforms the elements.
    transform: ValueId,
    columns: Dim,
}

/// Convolves the tiles: `[outputs, O, columns]`.
fn multiply(tape: &mut Tape, conv: &Conv, tiles: &Tiles, matrices: &Matrices) -> Emitted {
    let Tiles { data, transform, columns } = tiles;
    let products = (matrices.filter.len() * matrices.filter.len()) as i64;
    let width = |rows: i64| columns.times(&Dim::from(rows)).ok_or("its batch is too large".to_owned());
    let rows = tape.graph.shape(*transform)[1].clone();
    let flat = step_reshape(tape, *data, &[rows, width(conv.map.channels)?])?;
    let transformed = gemm(tape, *transform, flat, None)?;
    let transformed = step_reshape(tape, transformed, &[products.into(), conv.map.channels.into(), columns.clone()])?;
    let filters = filters(tape, conv, matrices)?;
    let multiplied = step(tape, "MatMul", &[filters, transformed])?;
    let flat = step_reshape(tape, multiplied, &[products.into(), width(conv.outputs)?])?;
    let factor = square(tape, &matrices.outputs);
    let outputs = (matrices.outputs.len() * matrices.outputs.len()) as i64;
    let result = gemm(tape, factor, flat, None)?;
    step_reshape(tape, result, &[outputs.into(), conv.outputs.into(), columns.clone()])
}

/// Convolves a map of 2×2 to 4×4 at once; the data's matrix leaves out the padding.
fn whole(tape: &mut Tape, conv: &Conv, size: i64) -> Emitted {
    let matrices = matrices(size);
    let inner: Vec<Vec<f64>> = matrices.data.iter().map(|row| row[1..=size as usize].to_vec()).collect();
    let data = transpose(tape, conv.map.value, &[1, 0, 2])?;
    let transform = square(tape, &inner);
    let tiles = Tiles { data, transform, columns: conv.map.batch.clone() };
    let result = multiply(tape, conv, &tiles, &matrices)?;
    transpose(tape, result, &[1, 0, 2])
}

/// Convolves overlapping tiles of 6×6, each with 4×4 outputs.
fn tiled(tape: &mut Tape, conv: &Conv, size: i64) -> Emitted {
    let matrices = matrices(TILE);
    let across = size / TILE;
    let span = TILE + 2;
    let tiles = across * across;
    // The position in the map of each element of a tile, for all tiles.
    let mut taken = Vec::new();
    for (row, column) in (0..span).flat_map(|row| (0..span).map(move |column| (row, column))) {
        for tile in 0..tiles {
            let y = tile / across * TILE + row - 1;
            let x = tile % across * TILE + column - 1;
            let is_inside = (0..size).contains(&y) && (0..size).contains(&x);
            taken.push(is_inside.then_some((y * size + x) as usize));
        }
    }
    let columns = conv.map.batch.times(&Dim::from(tiles)).ok_or("its batch is too large")?;
    let elements = span * span;
    let picked = pick(tape, conv.map.value, &taken)?;
    let picked = step_reshape(tape, picked, &[conv.map.channels.into(), elements.into(), columns.clone()])?;
    let data = transpose(tape, picked, &[1, 0, 2])?;
    let transform = square(tape, &matrices.data);
    let result = multiply(tape, conv, &Tiles { data, transform, columns }, &matrices)?;
    let turned = transpose(tape, result, &[1, 0, 2])?;
    let flat = [conv.outputs.into(), (TILE * TILE * tiles).into(), conv.map.batch.clone()];
    let turned = step_reshape(tape, turned, &flat)?;
    let place = |position: i64| {
        let y = position / size;
        let x = position % size;
        let tile = y / TILE * across + x / TILE;
        Some(((y % TILE * TILE + x % TILE) * tiles + tile) as usize)
    };
    pick(tape, turned, &(0..size * size).map(place).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the algorithm against the definition, in 64 bits.
    #[test]
    fn products_equal_the_convolution() {
        for m in [2, 3, 4] {
            let Matrices { outputs, filter, data } = matrices(m);
            let w: Vec<f64> = (0..3).map(|i| 0.3 + f64::from(i)).collect();
            let d: Vec<f64> = (0..m + 2).map(|i| 1.7 - (i * i) as f64).collect();
            let dot = |row: &Vec<f64>, v: &[f64]| row.iter().zip(v).map(|(a, b)| a * b).sum::<f64>();
            let products: Vec<f64> = filter.iter().zip(&data).map(|(f, b)| dot(f, &w) * dot(b, &d)).collect();
            for i in 0..m as usize {
                let expected: f64 = (0..3).map(|k| w[k] * d[i + k]).sum();
                assert!((dot(&outputs[i], &products) - expected).abs() < 1e-9, "F({m}, 3), output {i}");
            }
        }
    }
}

//! `Einsum` of one or two operands as transposes, sums and one matrix product, whose gradients are known.

use super::{Call, Outputs};
use crate::attributes::Attributes;
use crate::dim::{Dim, product};
use crate::error::Reason;
use crate::graph::ValueId;

/// An operand, and the letter of each of its axes.
struct Operand {
    value: ValueId,
    letters: Vec<char>,
}

pub(super) fn apply(call: &mut Call<'_>) -> Outputs {
    let equation: String = call.node.attributes.text("equation").unwrap_or_default().split_whitespace().collect();
    let unsupported = || format!("its equation `{equation}` must have one or two operands and an explicit result");
    let (left, right) = equation.split_once("->").ok_or_else(unsupported)?;
    let terms: Vec<&str> = left.split(',').collect();
    if equation.contains('.') || terms.len() != call.inputs.len() || !(1..=2).contains(&terms.len()) {
        return Err(unsupported());
    }
    let result: Vec<char> = right.chars().collect();
    let mut operands = Vec::new();
    for (index, term) in terms.iter().enumerate() {
        let value = call.input(index)?;
        let letters = term.chars().collect::<Vec<_>>();
        let repeats = |letters: &[char]| letters.iter().enumerate().any(|(at, letter)| letters[..at].contains(letter));
        if letters.len() != call.tape.graph.rank(value) || repeats(&letters) || repeats(&result) {
            return Err(unsupported());
        }
        operands.push(Operand { value, letters });
    }
    if let Some(letter) = result.iter().find(|letter| !operands.iter().any(|operand| operand.letters.contains(letter)))
    {
        return Err(format!("its equation `{equation}` has `{letter}` in the result only"));
    }
    // Axes that only one operand has, and the result does not, are summed first.
    for index in 0..operands.len() {
        let other = operands.get(1 - index.min(1)).map(|other| other.letters.clone()).unwrap_or_default();
        let other = if operands.len() == 1 { vec![] } else { other };
        let operand = &mut operands[index];
        let is_lone = |letter: &char| !result.contains(letter) && !other.contains(letter);
        let axes: Vec<usize> = (0..operand.letters.len()).filter(|axis| is_lone(&operand.letters[*axis])).collect();
        if !axes.is_empty() {
            operand.value = call.reduce("ReduceSum", operand.value, &axes, false)?;
            operand.letters.retain(|letter| !is_lone(letter));
        }
    }
    let joined = match <[Operand; 2]>::try_from(operands) {
        Ok([a, b]) => multiply(call, &a, &b, &result)?,
        Err(mut single) => single.remove(0),
    };
    Ok(vec![arrange(call, &joined, &result)?])
}

/// The operand with its axes in the order of `letters`.
fn arrange(call: &mut Call<'_>, operand: &Operand, letters: &[char]) -> Result<ValueId, Reason> {
    let place = |letter: &char| operand.letters.iter().position(|own| own == letter).map(|at| at as i64);
    let perm: Option<Vec<i64>> = letters.iter().map(place).collect();
    let perm = perm.ok_or("its letters do not fit its operands")?;
    call.tape.apply_one("Transpose", &[operand.value], Attributes::default().with("perm", perm))
}

/// `[shared, own of a, summed] · [shared, summed, own of b]`
fn multiply(call: &mut Call<'_>, a: &Operand, b: &Operand, result: &[char]) -> Result<Operand, Reason> {
    let both = |letter: &&char| b.letters.contains(letter);
    let shared: Vec<char> = a.letters.iter().filter(both).filter(|l| result.contains(l)).copied().collect();
    let summed: Vec<char> = a.letters.iter().filter(both).filter(|l| !result.contains(l)).copied().collect();
    let rows: Vec<char> = a.letters.iter().filter(|l| !b.letters.contains(l)).copied().collect();
    let columns: Vec<char> = b.letters.iter().filter(|l| !a.letters.contains(l)).copied().collect();
    let size = |call: &Call<'_>, operand: &Operand, letters: &[char]| -> Result<Vec<Dim>, Reason> {
        let shape = call.tape.graph.shape(operand.value);
        let dim = |letter: &char| Some(shape[operand.letters.iter().position(|own| own == letter)?].clone());
        letters.iter().map(dim).collect::<Option<_>>().ok_or_else(|| "its letters do not fit its operands".into())
    };
    let front = size(call, a, &shared)?;
    let height = size(call, a, &rows)?;
    let inner = size(call, a, &summed)?;
    let width = size(call, b, &columns)?;
    let flat = |dims: &[Dim]| product(dims).ok_or_else(|| "its result is too large".to_owned());
    let left = arrange(call, a, &[&shared[..], &rows, &summed].concat())?;
    let left = call.reshape(left, &[flat(&front)?, flat(&height)?, flat(&inner)?])?;
    let right = arrange(call, b, &[&shared[..], &summed, &columns].concat())?;
    let right = call.reshape(right, &[flat(&front)?, flat(&inner)?, flat(&width)?])?;
    let product = call.step("MatMul", &[left, right])?;
    let value = call.reshape(product, &[front, height, width].concat())?;
    Ok(Operand { value, letters: [shared, rows, columns].concat() })
}

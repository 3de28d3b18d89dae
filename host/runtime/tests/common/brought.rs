//! ONNX files that functions bring along, some of them hostile.

use crate::build::{Build, message};

/// `y = x · x`, for one number.
pub(crate) fn squared() -> Vec<u8> {
    Build::new(13).input("x", &[1]).node("Mul", "x x", "y", &[]).output("y")
}

/// Zeros of this shape, times `x`.
pub(crate) fn filled(shape: &[i64]) -> Vec<u8> {
    let sizes = shape.len() as i64;
    let build = Build::new(13).input("x", &[1]).integers("shape", &[sizes], shape);
    build.node("ConstantOfShape", "shape", "zeros", &[]).node("Mul", "zeros x", "y", &[]).output("y")
}

/// Zeros of this shape; `x` is not used.
pub(crate) fn constant(shape: &[i64]) -> Vec<u8> {
    let build = Build::new(13).input("x", &[1]).integers("shape", &[shape.len() as i64], shape);
    build.node("ConstantOfShape", "shape", "y", &[]).output("y")
}

/// A loop without end, which doubles a number again and again. [`Build`] writes no graphs within graphs, so its node is
/// added as bytes.
pub(crate) fn endless() -> Vec<u8> {
    const FLOAT: u8 = 1;
    const INT64: u8 = 7;
    const BOOL: u8 = 9;
    let text = |field: u64, text: &str| message(field, text.as_bytes());
    let node = |op: &str, inputs: &[&str], output: &str, more: Vec<u8>| {
        let inputs: Vec<u8> = inputs.iter().flat_map(|name| text(1, name)).collect();
        message(1, &[inputs, text(2, output), text(3, op), text(4, op), more].concat())
    };
    // A value of this type: a number without dimensions, or one number in a row.
    let value = |field: u64, name: &str, ty: u8| {
        let row = message(1, &[1 << 3, 1]);
        let shape = message(2, if ty == FLOAT { &row } else { &[] });
        let tensor = message(1, &[vec![1 << 3, ty], shape].concat());
        message(field, &[text(1, name), message(2, &tensor)].concat())
    };
    let body = [
        node("Identity", &["goes_on"], "goes_on_then", vec![]),
        node("Add", &["sum", "sum"], "sum_then", vec![]),
        text(2, "body"),
        value(11, "count", INT64),
        value(11, "goes_on", BOOL),
        value(11, "sum", FLOAT),
        value(12, "goes_on_then", BOOL),
        value(12, "sum_then", FLOAT),
    ];
    // Field 20 is the attribute's type, of which 5 is a graph.
    let attribute = [text(1, "body"), message(6, &body.concat()), vec![0xa0, 1, 5]].concat();
    let node = node("Loop", &["", "always", "double"], "y", message(5, &attribute));
    let build = Build::new(13).input("x", &[1]).truth("always", true).node("Add", "x x", "double", &[]);
    with_node(&build.output("y"), &node)
}

/// The file with a further node at the end of its graph.
fn with_node(file: &[u8], node: &[u8]) -> Vec<u8> {
    const GRAPH: u64 = 7;
    const NUMBER: u64 = 0;
    let mut rest = file;
    let mut result = Vec::new();
    while !rest.is_empty() {
        let field = rest;
        let key = number(&mut rest);
        let value = number(&mut rest);
        let content = if key & 7 == NUMBER { &[] } else { rest.split_off(..value as usize).expect("a whole file") };
        match key >> 3 {
            GRAPH => result.extend(message(GRAPH, &[content, node].concat())),
            _ => result.extend_from_slice(&field[..field.len() - rest.len()]),
        }
    }
    result
}

/// Takes a number in LEB128 off the front.
fn number(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let byte = *bytes.split_off_first().expect("a whole number");
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

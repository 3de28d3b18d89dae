//! Large components, written as bytes: parts that no compiler would emit, appended to a component that is valid.

/// Identifiers of sections: a custom one in either format, and a core module within a component.
const CUSTOM: u8 = 0;
const CORE_MODULE: u8 = 1;
/// Identifiers of sections of a core module.
const TYPES: u8 = 1;
const FUNCTIONS: u8 = 3;
const CODE: u8 = 10;
const MAGIC: &[u8] = b"\0asm\x01\0\0\0";

/// `local.get 0`, `local.get 1`, `i32.add`, `local.set 0`.
const STEP: [u8; 7] = [0x20, 0, 0x20, 1, 0x6a, 0x21, 0];
/// `end`.
const END: u8 = 0x0b;

/// An unsigned number in LEB128.
fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Bytes after their length.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&number(bytes.len()), bytes].concat()
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &sized(content)].concat()
}

/// The component with a custom section of so many bytes.
pub(crate) fn with_custom_section(mut component: Vec<u8>, bytes: usize) -> Vec<u8> {
    let mut content = sized(b"ballast");
    content.resize(content.len() + bytes, 0);
    component.extend(section(CUSTOM, &content));
    component
}

/// The component with a further core module of `count` functions, each with so many bytes of additions.
pub(crate) fn with_code(mut component: Vec<u8>, count: usize, bytes: usize) -> Vec<u8> {
    // No locals but the two parameters.
    let mut body = vec![0];
    STEP.iter().cycle().take(bytes / STEP.len() * STEP.len()).for_each(|byte| body.push(*byte));
    body.push(END);
    let body = sized(&body);
    let mut code = number(count);
    (0..count).for_each(|_| code.extend_from_slice(&body));
    let mut functions = number(count);
    functions.resize(functions.len() + count, 0);
    // One type, of two integers and without a result.
    let types = [1, 0x60, 2, 0x7f, 0x7f, 0];
    let module = [MAGIC, &section(TYPES, &types), &section(FUNCTIONS, &functions), &section(CODE, &code)].concat();
    component.extend(section(CORE_MODULE, &module));
    component
}

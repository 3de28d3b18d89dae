//! Every function that a world imports, called with pointers, lengths and handles that lead nowhere.
//!
//! One component for each world imports all of them; the number of a call selects the function and its arguments.

use wit_parser::abi::{AbiVariant, FlatTypes, WasmType};
use wit_parser::{Function, Handle, Resolve, Type, TypeDefKind, TypeId, TypeOwner, WorldItem};

use super::components;
use super::driver::{BOUNDS, Expected, LONG_MS, Place, Process, aggregation, gradient};
use super::guests;
use super::protocol::{Network, Outcome, Request};

/// Beyond every memory that a call may have.
const PAST: &str = "(i32.const 0x7fff0000)";
/// No component has so many handles here.
const NOBODY: &str = "(i32.const 77777)";

/// An argument of an import in core WebAssembly.
#[derive(Debug, Clone, PartialEq)]
enum Argument {
    Pointer,
    Length,
    /// Where the host writes the result.
    Result,
    /// A handle to a resource of that name.
    Handle(String),
    Number(&'static str),
}

#[derive(Debug)]
struct Import {
    module: String,
    name: String,
    arguments: Vec<Argument>,
    result: Option<&'static str>,
}

/// What is wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// All pointers are past the end.
    Pointers,
    /// All lengths reach past the end.
    Lengths,
    /// The host must write its result past the end.
    Result,
    /// A handle that does not exist.
    Handle,
    /// A handle to a resource of another kind.
    OtherHandle,
}

/// The name of the job's graph.
const MODEL: &str = r#"(data (i32.const 1024) "model/train")"#;

const FAULTS: [Fault; 5] = [Fault::Pointers, Fault::Lengths, Fault::Result, Fault::Handle, Fault::OtherHandle];

/// Functions that end the program, whatever they are called with.
const ENDS: &str = "exit";

pub(crate) fn every_import() {
    let place = Place::new();
    let mut process = Process::start(&place, LONG_MS);
    // In total, so that a change of the interfaces does not empty the test.
    assert!(check(&place, &mut process, "gradient") > 100);
    assert!(check(&place, &mut process, "aggregate") > 80);
    println!("  {process}");
}

/// Calls every import of a world with every fault that it can have; returns how many there are.
fn check(place: &Place, process: &mut Process, world: &str) -> usize {
    let imports = imports(world);
    let mut bodies = String::new();
    let mut cases = Vec::new();
    for import in imports.iter().filter(|import| import.name != ENDS) {
        for fault in FAULTS {
            if let Some(call) = call(import, fault) {
                let number = cases.len() + 1;
                let selected = if world == "gradient" { "$samples" } else { "$faults" };
                bodies += &format!("(if (i32.eq (local.get {selected}) (i32.const {number})) (then {call}))\n");
                cases.push((format!("{} {}, {fault:?}", import.module, import.name), fault));
            }
        }
    }
    let text: String = imports.iter().map(declaration).collect();
    let component = if world == "gradient" {
        guests::gradient(&text, MODEL, &format!("{} {bodies}", handles(world)))
    } else {
        components::aggregation(&text, "", &format!("{} {bodies}", handles(world)))
    };
    let path = place.component(world, &component);
    for (index, (case, fault)) in cases.iter().enumerate() {
        let request = if world == "gradient" { gradient(&path, BOUNDS) } else { aggregation(&path, BOUNDS) };
        let network = Network { engine: "rten".into(), model: String::new() };
        let network = (world == "gradient").then_some(network);
        let request = Request { number: index as u32 + 1, network, ..request };
        process.check_each(case, &request, |outcome| check_outcome(case, *fault, outcome));
    }
    println!("  {} calls of {} functions of the world `{world}`", cases.len(), imports.len());
    cases.len()
}

/// The guest's fault, and for the reason that is meant: not for a handle where the handles are right.
fn check_outcome(case: &str, fault: Fault, outcome: &Outcome) {
    // A list too long may be too much data before it is known to reach past the end.
    let is_too_much = fault == Fault::Lengths && Expected::Limit("hostcall_mib").is_met(outcome);
    assert!(is_too_much || Expected::Trap("").is_met(outcome), "{case}: {outcome:?}");
    let blames_handle = outcome.message.contains("handle");
    let is_of_handle = matches!(fault, Fault::Handle | Fault::OtherHandle);
    assert_eq!(blames_handle, is_of_handle, "{case}: {outcome:?}");
}

/// All functions that a world imports, and the drops of its resources.
fn imports(world: &str) -> Vec<Import> {
    let (resolve, world) = components::world(world);
    let mut imports = Vec::new();
    for (key, item) in &resolve.worlds[world].imports {
        let WorldItem::Interface { id: interface, .. } = item else { continue };
        let module = resolve.name_world_key(key);
        // The tests' own, which no function may import.
        if module.starts_with("wasi:http/") {
            continue;
        }
        for function in resolve.interfaces[*interface].functions.values() {
            imports.push(import(&resolve, &module, function));
        }
        for (name, id) in &resolve.interfaces[*interface].types {
            if matches!(resolve.types[*id].kind, TypeDefKind::Resource) {
                let arguments = vec![Argument::Handle(resource(&resolve, *id))];
                let name = format!("[resource-drop]{name}");
                imports.push(Import { module: module.clone(), name, arguments, result: None });
            }
        }
    }
    imports
}

fn import(resolve: &Resolve, module: &str, function: &Function) -> Import {
    let mut arguments: Vec<Argument> = Vec::new();
    for parameter in &function.params {
        match handle(resolve, parameter.ty) {
            Some(name) => arguments.push(Argument::Handle(name)),
            None => {
                let mut storage = [WasmType::I32; Resolve::MAX_FLAT_PARAMS];
                let mut flat = FlatTypes::new(&mut storage);
                assert!(resolve.push_flat(&parameter.ty, &mut flat), "{module} {} has many parameters", function.name);
                arguments.extend(flat.to_vec().into_iter().map(argument));
            }
        }
    }
    let signature = resolve.wasm_signature(AbiVariant::GuestImport, function);
    if signature.retptr {
        arguments.push(Argument::Result);
    }
    assert_eq!(arguments.len(), signature.params.len(), "{module} {}", function.name);
    let result = signature.results.first().map(|ty| core(*ty));
    Import { module: module.to_owned(), name: function.name.clone(), arguments, result }
}

fn argument(ty: WasmType) -> Argument {
    match ty {
        WasmType::Pointer => Argument::Pointer,
        WasmType::Length => Argument::Length,
        other => Argument::Number(core(other)),
    }
}

fn core(ty: WasmType) -> &'static str {
    match ty {
        WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
        WasmType::I64 | WasmType::PointerOrI64 => "i64",
        WasmType::F32 => "f32",
        WasmType::F64 => "f64",
    }
}

/// The resource that a type is a handle to, if it is one.
fn handle(resolve: &Resolve, ty: Type) -> Option<String> {
    let Type::Id(id) = ty else { return None };
    match &resolve.types[id].kind {
        TypeDefKind::Handle(Handle::Own(id) | Handle::Borrow(id)) => Some(resource(resolve, *id)),
        TypeDefKind::Type(ty) => handle(resolve, *ty),
        _ => None,
    }
}

/// The name of a resource with that of its interface: several are called `error`.
fn resource(resolve: &Resolve, id: TypeId) -> String {
    let ty = &resolve.types[id];
    if let TypeDefKind::Type(Type::Id(id)) = ty.kind {
        return resource(resolve, id);
    }
    let TypeOwner::Interface(owner) = ty.owner else { panic!("a resource of a world") };
    let interface = resolve.interfaces[owner].name.as_deref().unwrap_or_default();
    format!("{interface}/{}", ty.name.as_deref().unwrap_or_default())
}

/// The import in text form; its name there is that of its module and function.
fn declaration(import: &Import) -> String {
    let Import { module, name, arguments, result } = import;
    let parameters: String = arguments
        .iter()
        .map(|argument| match argument {
            Argument::Number(ty) => format!(" {ty}"),
            _ => " i32".to_owned(),
        })
        .collect();
    let result = result.map_or_else(String::new, |ty| format!("(result {ty})"));
    format!("(import \"{module}\" \"{name}\" (func $\"{module} {name}\" (param{parameters}) {result}))\n")
}

const NN: &str = "@0.2.0-rc-2024-10-28";

/// Instructions that create a handle to each kind of resource that a function can get, in locals.
fn handles(world: &str) -> String {
    let locals: String = RESOURCES.iter().map(|(_, local)| format!("(local {local} i32)")).collect();
    let own = if world == "gradient" {
        let load = format!("$\"wasi:nn/graph{NN} load-by-name\"");
        format!(
            "(local.set $tensor (i32.load offset=8 (local.get $list)))
            (call {load} (i32.const 1024) (i32.const 11) (i32.const 512))
            (local.set $graph (i32.load (i32.const 516)))
            (call $\"wasi:nn/graph{NN} [method]graph.init-execution-context\" (local.get $graph) (i32.const 512))
            (local.set $context (i32.load (i32.const 516)))
            (call {load} (i32.const 1024) (i32.const 5) (i32.const 512))
            (local.set $error (i32.load (i32.const 516)))"
        )
    } else {
        "(local.set $contribution (i32.load (local.get $list)))
        (local.set $own-sink (local.get $sink))"
            .to_owned()
    };
    format!(
        "{locals} {own}
        (local.set $pollable (call $\"wasi:clocks/monotonic-clock@0.2.0 subscribe-duration\" (i64.const 0)))
        (local.set $output (call $\"wasi:cli/stderr@0.2.0 get-stderr\"))
        (local.set $input (call $\"wasi:cli/stdin@0.2.0 get-stdin\"))
        (local.set $network (call $\"wasi:sockets/instance-network@0.2.0 instance-network\"))"
    )
}

/// Resources and the locals with a handle to them.
const RESOURCES: [(&str, &str); 10] = [
    ("tensor/tensor", "$tensor"),
    ("graph/graph", "$graph"),
    ("inference/graph-execution-context", "$context"),
    ("errors/error", "$error"),
    ("contributions/contribution", "$contribution"),
    ("contributions/sink", "$own-sink"),
    ("poll/pollable", "$pollable"),
    ("streams/output-stream", "$output"),
    ("streams/input-stream", "$input"),
    ("network/network", "$network"),
];

/// A call with this fault; `None` if the function cannot have it, or there is no handle for it.
fn call(import: &Import, fault: Fault) -> Option<String> {
    let has = |wanted: &Argument| import.arguments.contains(wanted);
    let has_handle = import.arguments.iter().any(|argument| matches!(argument, Argument::Handle(_)));
    let can = match fault {
        Fault::Pointers => has(&Argument::Pointer) || has(&Argument::Result),
        Fault::Lengths => has(&Argument::Length),
        Fault::Result => has(&Argument::Result) && has(&Argument::Pointer),
        Fault::Handle | Fault::OtherHandle => has_handle,
    };
    if !can {
        return None;
    }
    let arguments: Option<Vec<String>> = import.arguments.iter().map(|argument| value(argument, fault)).collect();
    let call = format!("(call $\"{} {}\" {})", import.module, import.name, arguments?.join(" "));
    Some(if import.result.is_some() { format!("(drop {call})") } else { call })
}

fn value(argument: &Argument, fault: Fault) -> Option<String> {
    let text = match (argument, fault) {
        (Argument::Pointer, Fault::Pointers) | (Argument::Result, Fault::Pointers | Fault::Result) => PAST,
        (Argument::Pointer, _) => "(i32.const 2048)",
        (Argument::Result, _) => "(i32.const 512)",
        (Argument::Length, Fault::Pointers) => "(i32.const 16)",
        (Argument::Length, Fault::Lengths) => "(i32.const 0x7fffffff)",
        (Argument::Length, _) => "(i32.const 0)",
        (Argument::Number(ty), _) => return Some(format!("({ty}.const 0)")),
        (Argument::Handle(_), Fault::Handle) => NOBODY,
        (Argument::Handle(name), Fault::OtherHandle) => {
            // Both worlds have these two.
            if name == "poll/pollable" { "(local.get $network)" } else { "(local.get $pollable)" }
        }
        (Argument::Handle(name), _) => {
            let (_, local) = RESOURCES.iter().find(|(resource, _)| resource == name)?;
            return Some(format!("(local.get {local})"));
        }
    };
    Some(text.to_owned())
}

//! Rules of the repository as tests: sizes, headers, layers, and documents that name only existing things.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use skein_kernels::rules::RULES;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::harness::root;
use crate::page::blocks;
use crate::prose;
use crate::readme::pages;

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Files of the repository with one of the extensions, without those that git ignores.
fn files(extensions: &[&str]) -> Vec<PathBuf> {
    let output = Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root()).output();
    let listed = String::from_utf8(output.expect("git is installed").stdout).unwrap();
    let named = |path: &Path| path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted));
    let files: Vec<_> =
        listed.lines().map(|line| root().join(line)).filter(|path| named(path) && path.exists()).collect();
    assert!(!files.is_empty(), "{extensions:?}");
    files
}

fn fails(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn files_begin_with_a_header_and_stay_small() {
    let mut problems = Vec::new();
    for path in files(&["rs"]) {
        let text = fs::read_to_string(&path).unwrap();
        if !text.starts_with("//! ") {
            problems.push(format!("{} does not begin with `//! `", path.display()));
        }
        if text.lines().count() > FILE_LINES_MAX {
            problems.push(format!("{} has more than {FILE_LINES_MAX} lines", path.display()));
        }
        if path.ends_with("mod.rs") || path.ends_with("utils.rs") {
            problems.push(format!("{} has a meaningless name", path.display()));
        }
    }
    fails(problems);
}

#[test]
fn prose_is_plain_english() {
    let mut problems = Vec::new();
    let mut lines = 0;
    let mut short = 0;
    for path in files(&prose::EXTENSIONS) {
        // The list of the words is the only place for them.
        if path.ends_with("xtask/src/measure/prose.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (line, word) in prose::forbidden(&text) {
            problems.push(format!("{}:{line}: `{word}`", path.display()));
        }
        if path.to_string_lossy().contains("/src/") && path.extension().is_some_and(|extension| extension == "rs") {
            let [all, few_words] = prose::documentation(&text);
            lines += all;
            short += few_words;
        }
    }
    if short * 100 >= lines {
        problems.push(format!("{short} of {lines} doc lines are comments of three words or fewer: 1 % are too many"));
    }
    fails(problems);
}

/// Collects what the ecosystem writes otherwise: `match` on a boolean, one `let` for several plain values, and tuples as
/// parameters.
struct Idioms<'a> {
    path: &'a Path,
    problems: &'a mut Vec<String>,
}

impl Idioms<'_> {
    fn report(&mut self, span: proc_macro2::Span, problem: &str) {
        self.problems.push(format!("{}:{}: {problem}", self.path.display(), span.start().line));
    }
}

/// Whether an expression only names a value.
fn is_plain(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Path(_) | syn::Expr::Lit(_) => true,
        syn::Expr::Field(field) => is_plain(&field.base),
        syn::Expr::Reference(reference) => is_plain(&reference.expr),
        _ => false,
    }
}

/// Whether a type is a tuple of several values, or a reference to one.
fn is_tuple(ty: &syn::Type) -> bool {
    match ty {
        syn::Type::Tuple(tuple) => !tuple.elems.is_empty(),
        syn::Type::Reference(reference) => is_tuple(&reference.elem),
        syn::Type::Paren(paren) => is_tuple(&paren.elem),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Idioms<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_test = item.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test")
        });
        if !is_test {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_expr_match(&mut self, item: &'ast syn::ExprMatch) {
        let is_boolean =
            |arm: &syn::Arm| matches!(&arm.pat, syn::Pat::Lit(literal) if matches!(literal.lit, syn::Lit::Bool(_)));
        if item.arms.iter().any(is_boolean) {
            self.report(item.match_token.span, "`match` on a boolean: write `if`");
        }
        visit::visit_expr_match(self, item);
    }

    // Closures have no signature: what an iterator yields is often a tuple.
    fn visit_signature(&mut self, item: &'ast syn::Signature) {
        for input in &item.inputs {
            if let syn::FnArg::Typed(parameter) = input
                && is_tuple(&parameter.ty)
            {
                self.report(parameter.span(), "a tuple as a parameter: write a struct, or a parameter for each value");
            }
        }
        visit::visit_signature(self, item);
    }

    fn visit_local(&mut self, item: &'ast syn::Local) {
        // `let … else` matches several patterns at once, which has no shorter form.
        let value = item.init.as_ref().filter(|init| init.diverge.is_none()).map(|init| &*init.expr);
        if let (syn::Pat::Tuple(_), Some(syn::Expr::Tuple(values))) = (&item.pat, value)
            && values.elems.iter().all(is_plain)
        {
            self.report(item.let_token.span, "several plain values in one `let`: write one `let` for each");
        }
        visit::visit_local(self, item);
    }
}

#[test]
fn code_has_the_idioms_of_the_ecosystem() {
    let mut problems = Vec::new();
    for path in files(&["rs"]) {
        if path.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        Idioms { path: &path, problems: &mut problems }.visit_file(&file);
    }
    fails(problems);
}

/// Collects functions longer than [`FUNCTION_LINES_MAX`].
struct Functions<'a> {
    path: &'a Path,
    problems: &'a mut Vec<String>,
}

impl Functions<'_> {
    fn check(&mut self, name: &syn::Ident, body: &syn::Block) {
        let lines = body.span().end().line - body.span().start().line + 1;
        if lines > FUNCTION_LINES_MAX {
            self.problems.push(format!("{}: `{name}` has {lines} lines", self.path.display()));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.check(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.check(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }
}

#[test]
fn functions_stay_small() {
    let mut problems = Vec::new();
    for path in files(&["rs"]) {
        let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        Functions { path: &path, problems: &mut problems }.visit_file(&file);
    }
    fails(problems);
}

/// The crates of the host from the bottom up, and the crates of the host that each may use.
const LAYERS: [(&str, &[&str]); 17] = [
    ("skein-kernels", &[]),
    ("skein-wheel", &[]),
    ("skein-engine", &["skein-graph", "skein-wheel"]),
    ("skein-graph", &[]),
    ("skein-types", &["skein-kernels"]),
    ("skein-redis-command", &["skein-kernels"]),
    ("skein-redis-module", &["skein-kernels", "skein-redis-command", "skein-types"]),
    ("skein-protocol", &["skein-types"]),
    ("skein-simulator", &["skein-protocol", "skein-types"]),
    ("skein-store", &["skein-kernels", "skein-types"]),
    ("skein-runtime", &["skein-engine", "skein-kernels", "skein-types"]),
    ("skein-job", &["skein-graph", "skein-kernels", "skein-protocol", "skein-types"]),
    (
        "skein-redis",
        &["skein-kernels", "skein-redis-command", "skein-redis-module", "skein-store", "skein-types", "skein-wheel"],
    ),
    (
        "skein-peer",
        &[
            "skein-engine",
            "skein-graph",
            "skein-job",
            "skein-kernels",
            "skein-protocol",
            "skein-redis",
            "skein-runtime",
            "skein-store",
            "skein-types",
        ],
    ),
    (
        "skein-bench",
        &[
            "skein-job",
            "skein-kernels",
            "skein-peer",
            "skein-protocol",
            "skein-redis",
            "skein-redis-command",
            "skein-runtime",
            "skein-store",
            "skein-types",
        ],
    ),
    (
        "skein",
        &[
            "skein-bench",
            "skein-engine",
            "skein-graph",
            "skein-job",
            "skein-peer",
            "skein-protocol",
            "skein-redis",
            "skein-runtime",
            "skein-store",
            "skein-types",
        ],
    ),
    ("xtask", &["skein-engine", "skein-graph", "skein-job", "skein-redis", "skein-simulator", "skein-types"]),
];

/// External crates, and the only crates that may depend on them (invariant 9).
const KNOWN_BY: [(&str, &[&str]); 12] = [
    ("axum", &["skein"]),
    ("clap", &["skein", "xtask"]),
    ("landlock", &["skein-runtime"]),
    ("openvino", &["skein-engine"]),
    ("ort", &["skein-engine"]),
    ("prost", &["skein-graph"]),
    ("redis", &["skein-bench", "skein-redis"]),
    ("rten", &["skein-engine"]),
    ("seccompiler", &["skein-runtime"]),
    ("tokio", &["skein", "skein-bench", "skein-peer", "skein-redis", "skein-runtime", "skein-store", "xtask"]),
    ("wasmtime", &["skein-runtime"]),
    ("wasmtime-wasi", &["skein-runtime"]),
];
/// Crates that the protocol may use beside std: none that waits, reads a clock or touches a store. serde and its
/// companions are for its options, which manifests contain.
const PROTOCOL_MAY_USE: [&str; 7] =
    ["skein-types", "blake3", "ed25519-dalek", "humantime-serde", "schemars", "serde", "thiserror"];

/// Normal dependencies of every crate of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let arguments = ["metadata", "--format-version", "1", "--no-deps", "--offline"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let normal = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        all.filter(|dependency| dependency["kind"].is_null()).map(name).collect()
    };
    packages.map(|package| (name(package), normal(package))).collect()
}

#[test]
fn layers_run_one_way_and_each_external_crate_is_confined() {
    let dependencies = dependencies();
    let mut problems = Vec::new();
    for (layer, allowed) in LAYERS {
        for used in dependencies[layer].iter().filter(|used| used.starts_with("skein")) {
            if !allowed.contains(&used.as_str()) {
                problems.push(format!("`{layer}` uses `{used}`"));
            }
        }
    }
    for (layer, used) in &dependencies {
        if layer.starts_with("skein") && !LAYERS.iter().any(|(known, _)| known == layer) {
            problems.push(format!("`{layer}` has no entry in `LAYERS`: add one with the crates it may use"));
        }
        for (thing, owners) in KNOWN_BY {
            if used.contains(thing) && !owners.contains(&layer.as_str()) {
                problems.push(format!("`{layer}` uses `{thing}`, which only {owners:?} may use"));
            }
        }
    }
    for used in &dependencies["skein-protocol"] {
        if !PROTOCOL_MAY_USE.contains(&used.as_str()) {
            problems.push(format!("`skein-protocol` must only decide, but uses `{used}`"));
        }
    }
    fails(problems);
}

/// `cargo run` has to know what to run, so nothing but the product is a program.
#[test]
fn only_the_product_is_a_program() {
    let arguments = ["metadata", "--no-deps", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let targets = packages.flat_map(|package| package["targets"].as_array().unwrap());
    let programs = targets.filter(|target| target["kind"][0] == "bin").map(|target| target["name"].as_str().unwrap());
    assert_eq!(programs.collect::<Vec<_>>(), ["skein"]);
}

/// What breaks the protocol on purpose is only built where it is asked for by name.
#[test]
fn no_package_enables_the_mutants() {
    let mut problems = Vec::new();
    for path in files(&["toml"]).into_iter().filter(|path| path.ends_with("Cargo.toml")) {
        let text = fs::read_to_string(&path).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        let enables = |features: &toml::Value| features.to_string().contains("mutants");
        let of = |table: &toml::Table| -> Vec<String> {
            let tables = ["dependencies", "dev-dependencies", "build-dependencies"].map(|name| table.get(name));
            let dependencies = tables.into_iter().flatten().filter_map(toml::Value::as_table).flatten();
            let enabling = dependencies.filter(|(_, dependency)| dependency.get("features").is_some_and(enables));
            enabling.map(|(name, _)| name.clone()).collect()
        };
        let workspace = manifest.get("workspace").and_then(toml::Value::as_table);
        let enabling = [Some(&manifest), workspace].into_iter().flatten().flat_map(of);
        problems.extend(enabling.map(|name| format!("{} enables the mutants of `{name}`", path.display())));
        let default = manifest.get("features").and_then(|features| features.get("default"));
        if default.is_some_and(enables) {
            problems.push(format!("{} has the mutants among its default features", path.display()));
        }
    }
    fails(problems);
}

/// Paths, links and commands in README, ARCHITECTURE and the pages must exist.
#[test]
fn documents_name_only_existing_paths_and_commands() {
    let mut problems = Vec::new();
    let more = ["ARCHITECTURE.md", "host/job/data/README.md", "tests/data/README.md", "tests/data/formats/README.md"];
    for document in pages().into_iter().chain(more.map(str::to_owned)) {
        let text = fs::read_to_string(root().join(&document)).unwrap();
        let folder = root().join(&document).parent().unwrap().to_owned();
        for line in code_lines(&text).chain(inline_code(&text)) {
            if let Some(problem) = check_code(&line) {
                problems.push(format!("{document}: {problem}"));
            }
        }
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !target.starts_with("http") && !target.starts_with('#') && !folder.join(target).exists() {
                problems.push(format!("{document}: the link `{target}` leads nowhere"));
            }
        }
    }
    fails(problems);
}

fn code_lines(text: &str) -> impl Iterator<Item = String> {
    let scripts = blocks(text).into_iter().filter(|block| block.language == "sh");
    scripts.flat_map(|block| block.commands().map(str::to_owned).collect::<Vec<_>>())
}

fn inline_code(text: &str) -> impl Iterator<Item = String> {
    let prose: String = text.split("```").step_by(2).collect();
    let spans: Vec<String> = prose.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    spans.into_iter()
}

/// The problem with a path or a command; `None` if it exists.
fn check_code(code: &str) -> Option<String> {
    let mut words = code.split_whitespace().skip_while(|word| word.contains('=')).peekable();
    let program = words.peek().copied().unwrap_or_default().trim_start_matches("./target/release/");
    let rest: Vec<&str> = words.skip(1).collect();
    match program {
        "skein" => check_arguments("skein", env!("CARGO_BIN_EXE_skein"), &rest),
        "cargo" => match rest.as_slice() {
            ["run", options @ ..] => {
                let own: Vec<_> = options.iter().skip_while(|word| **word != "--").skip(1).copied().collect();
                check_arguments("skein", env!("CARGO_BIN_EXE_skein"), &own)
            }
            ["xtask", chore, ..] => {
                let chores = fs::read_to_string(root().join("xtask/src/main.rs")).unwrap();
                let words = chore.split('-').map(|word| word[..1].to_uppercase() + &word[1..]);
                let variant: String = words.collect();
                [" {", ",", "("]
                    .iter()
                    .all(|end| !chores.contains(&format!("    {variant}{end}")))
                    .then(|| format!("`cargo xtask` has no chore `{chore}`"))
            }
            _ => None,
        },
        word => {
            let path = word.split(&['*', '<', '('][..]).next().unwrap_or_default().trim_end_matches(',');
            let is_path = path.contains('/') && !path.contains("://") && !path.contains(':') && rest.is_empty();
            let is_path = is_path && !path.starts_with(['$', '~', '"']) && !path.starts_with("..");
            (is_path && !root().join(path).exists()).then(|| format!("`{path}` does not exist"))
        }
    }
}

/// The problem with a subcommand or a long option; `None` if the program has them.
fn check_arguments(name: &str, program: &str, arguments: &[&str]) -> Option<String> {
    // Subcommands, perhaps nested, and operands, which `--help` ignores.
    let subcommands: Vec<&str> = arguments.iter().copied().take_while(|word| !word.starts_with('-')).collect();
    let subcommand = subcommands.first();
    let help = Command::new(program).args(&subcommands).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap() + "--version";
    if help == "--version" {
        return Some(format!("`{name}` has no command `{}`", subcommand.unwrap_or(&"")));
    }
    let unknown = arguments.iter().find(|word| word.starts_with("--") && !help.contains(*word));
    unknown.map(|option| format!("`{name} {}` has no option `{option}`", subcommand.unwrap_or(&"")))
}

/// Every component is used by a test, or is the function of a built-in rule.
#[test]
fn every_guest_is_used() {
    let tests = files(&["rs"]).into_iter().filter(|path| path.to_str().unwrap().contains("/tests/"));
    let tests: String = tests.map(|path| fs::read_to_string(path).unwrap()).collect();
    for entry in fs::read_dir(root().join("guest-functions/dist")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let named = [format!("\"{name}\""), format!("\"{name}.wasm\"")];
        // The runtime's tests run the function of every rule in the table.
        let is_rule = RULES.into_iter().any(|kind| kind.function == name);
        assert!(is_rule || named.iter().any(|named| tests.contains(named.as_str())), "no test uses `{name}`");
    }
}

/// A file outside of the repository may be absent, and then its test would check nothing.
#[test]
fn tests_read_only_what_is_in_the_repository() {
    let outside = ["../../shared", "\"../shared", "SKEIN_DATA"];
    let mut problems = Vec::new();
    for path in files(&["rs"]).into_iter().filter(|path| !path.ends_with("tests/it/tidy.rs")) {
        let text = fs::read_to_string(&path).unwrap();
        for word in outside.iter().filter(|word| text.contains(**word)) {
            problems.push(format!("{} reads `{word}`: put what a test needs into `tests/data`", path.display()));
        }
    }
    fails(problems);
}

/// No file contains a path of the machine on which it was written.
#[test]
fn no_file_names_a_path_of_this_machine() {
    let home = root();
    let mut problems = Vec::new();
    for path in files(&["rs", "toml", "md", "wit", "lock", "json"]) {
        let text = fs::read_to_string(&path).unwrap();
        if text.contains(&format!("{}/", home.parent().unwrap().display())) {
            problems.push(format!("{} names a path of this machine", path.display()));
        }
    }
    fails(problems);
}

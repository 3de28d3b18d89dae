//! Sizes and habits of the code: lines of files and functions, assertions, spans, dependencies, prose.
//!
//! Lines of files under `src` include `#[cfg(test)]` modules; counts of functions, assertions and spans do not.

mod prose;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::bench::{Format, output};
use crate::cargo;

/// Arguments of `cargo xtask measure`.
#[derive(clap::Args)]
pub(crate) struct Measure {
    /// How the figures are printed.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// The counts of one crate, or of all.
#[derive(Default)]
struct Counted {
    /// Lines of each file, tests included.
    files: Vec<usize>,
    /// Lines of each function, from its signature to its closing brace.
    functions: Vec<usize>,
    assertions: usize,
    spans: usize,
    dependencies: BTreeSet<String>,
}

pub(crate) fn run(root: &Path, options: &Measure) -> Result<()> {
    let mut crates = count(root)?;
    for (name, dependencies) in dependencies(root)? {
        if let Some(counted) = crates.get_mut(&name) {
            counted.dependencies = dependencies;
        }
    }
    let mut all = Counted::default();
    for counted in crates.values() {
        all.files.extend(&counted.files);
        all.functions.extend(&counted.functions);
        all.assertions += counted.assertions;
        all.spans += counted.spans;
        all.dependencies.extend(counted.dependencies.iter().cloned());
    }
    let Prose { forbidden, lines, short } = prose(root)?;
    let short_percent = 100.0 * short as f64 / lines.max(1) as f64;
    match options.output {
        Format::Json => {
            let rows: Map<String, Value> =
                crates.iter().map(|(name, counted)| (name.clone(), counted.to_json())).collect();
            let prose = json!({
                "forbidden_words": forbidden,
                "doc_lines": lines,
                "short_doc_lines": short,
                "short_doc_lines_percent": short_percent,
            });
            println!("{}", json!({ "all": all.to_json(), "crates": rows, "prose": prose }));
        }
        Format::Text => {
            println!("{:<24} files                functions            asserts  lines each  spans  dependencies", "");
            println!("{:<24} number med p90 max   number med p90 p99 max", "");
            for (name, counted) in crates.iter().chain([(&"all".to_owned(), &all)]) {
                println!("{name:<24} {}", counted.row());
            }
            println!("\nforbidden words: {forbidden}");
            println!("doc comments of three words or fewer: {short} of {lines} doc lines, {short_percent:.2} %");
        }
    }
    Ok(())
}

/// Counts of the repository's prose.
#[derive(Default)]
struct Prose {
    /// Occurrences of words that documentation does without.
    forbidden: usize,
    /// Lines of documentation in sources.
    lines: usize,
    /// Doc comments of three words or fewer.
    short: usize,
}

fn prose(root: &Path) -> Result<Prose> {
    let patterns = prose::EXTENSIONS.map(|extension| format!("*.{extension}"));
    let listed =
        output(Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).args(patterns).current_dir(root))?;
    let mut counts = Prose::default();
    for file in listed.lines() {
        let path = root.join(file);
        // Files that were removed are still listed, and the list of the words holds them.
        if !path.exists() || file.ends_with("measure/prose.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read `{file}`"))?;
        counts.forbidden += prose::forbidden(&text).len();
        if file.contains("/src/") && file.ends_with(".rs") {
            let [lines, short] = prose::documentation(&text);
            counts.lines += lines;
            counts.short += short;
        }
    }
    Ok(counts)
}

impl Counted {
    fn lines(&self) -> usize {
        self.files.iter().sum()
    }

    fn to_json(&self) -> Value {
        let sizes = |sizes: &[usize]| {
            json!({
                "number": sizes.len(),
                "median": quantile(sizes, 0.5),
                "p90": quantile(sizes, 0.9),
                "p99": quantile(sizes, 0.99),
                "max": quantile(sizes, 1.0),
            })
        };
        json!({
            "lines": self.lines(),
            "files": sizes(&self.files),
            "functions": sizes(&self.functions),
            "assertions": self.assertions,
            "lines_per_assertion": self.lines().checked_div(self.assertions),
            "spans": self.spans,
            "dependencies": self.dependencies,
        })
    }

    fn row(&self) -> String {
        let file = |part: f64| quantile(&self.files, part);
        let function = |part: f64| quantile(&self.functions, part);
        let each = self.lines().checked_div(self.assertions).map_or_else(|| "-".to_owned(), |lines| lines.to_string());
        format!(
            "{:>6} {:>3} {:>3} {:>3}   {:>6} {:>3} {:>3} {:>3} {:>3}  {:>7}  {each:>10}  {:>5}  {:>12}",
            self.files.len(),
            file(0.5),
            file(0.9),
            file(1.0),
            self.functions.len(),
            function(0.5),
            function(0.9),
            function(0.99),
            function(1.0),
            self.assertions,
            self.spans,
            self.dependencies.len(),
        )
    }
}

/// The smallest value that at least `part` of all values do not exceed; 0 without values.
fn quantile(values: &[usize], part: f64) -> usize {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let index = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(index.saturating_sub(1)).copied().unwrap_or_default()
}

/// Counts every crate of the repository, by package name.
fn count(root: &Path) -> Result<BTreeMap<String, Counted>> {
    let listed = output(Command::new("git").args(["ls-files", "-co", "--exclude-standard", "*.rs"]).current_dir(root))?;
    let mut crates: BTreeMap<String, Counted> = BTreeMap::new();
    for file in listed.lines() {
        let Some((folder, _)) = file.split_once("/src/") else { continue };
        let path = root.join(file);
        if !path.exists() {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read `{file}`"))?;
        let parsed = syn::parse_file(&text).with_context(|| format!("failed to parse `{file}`"))?;
        let counted = crates.entry(package(&root.join(folder))?).or_default();
        counted.files.push(text.lines().count());
        Counting(counted).visit_file(&parsed);
    }
    Ok(crates)
}

/// The name of the package in a folder.
fn package(folder: &Path) -> Result<String> {
    let manifest = folder.join("Cargo.toml");
    let text =
        std::fs::read_to_string(&manifest).with_context(|| format!("failed to read `{}`", manifest.display()))?;
    let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    Ok(name.with_context(|| format!("`{}` has no name", manifest.display()))?.to_owned())
}

/// Direct dependencies of every crate on packages outside this repository, by package name.
fn dependencies(root: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let arguments = ["metadata", "--format-version", "1", "--no-deps", "--offline"];
    let metadata: Value = serde_json::from_str(&output(cargo().args(arguments).current_dir(root))?)?;
    let packages = metadata["packages"].as_array().context("`cargo metadata` printed no `packages`")?;
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let external = |package: &Value| {
        let all = package["dependencies"].as_array().into_iter().flatten();
        all.filter(|dependency| dependency["kind"].is_null() && dependency["path"].is_null()).map(name).collect()
    };
    Ok(packages.iter().map(|package| (name(package), external(package))).collect())
}

/// Counts the functions, assertions and spans that it visits.
struct Counting<'a>(&'a mut Counted);

impl Counting<'_> {
    fn function(&mut self, attributes: &[syn::Attribute], signature: &syn::Signature, body: &syn::Block) {
        self.0.functions.push(body.span().end().line + 1 - signature.span().start().line);
        self.0.spans += attributes.iter().filter(|attribute| last(attribute.path()) == "instrument").count();
    }
}

impl<'ast> Visit<'ast> for Counting<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !item.attrs.iter().any(is_test) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !item.attrs.iter().any(is_test) {
            self.function(&item.attrs, &item.sig, &item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.attrs, &item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        let name = last(&item.path);
        self.0.assertions += usize::from(name.starts_with("assert") || name.starts_with("debug_assert"));
        self.0.spans += usize::from(name == "span" || name.ends_with("_span"));
        visit::visit_macro(self, item);
    }
}

/// Whether an attribute is `#[cfg(test)]` or `#[test]`.
fn is_test(attribute: &syn::Attribute) -> bool {
    let is_cfg = attribute.path().is_ident("cfg")
        && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test");
    is_cfg || attribute.path().is_ident("test")
}

/// The last segment of a path, without its arguments.
fn last(path: &syn::Path) -> String {
    path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default()
}

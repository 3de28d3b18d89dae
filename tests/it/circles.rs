//! Checks that the modules of a crate import each other in one direction only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

use crate::harness::root;

/// The imports of each top-level module of a crate: its name to the names of the modules it imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn modules_of_a_crate_import_each_other_in_one_direction() {
    let mut problems = Vec::new();
    for entry in fs::read_dir(root().join("host")).unwrap() {
        let folder = entry.unwrap().path();
        let source = folder.join("src");
        if !source.is_dir() {
            continue;
        }
        let imports = imports(&source);
        let circles = imports.keys().filter_map(|module| circle(&imports, module));
        let circles: BTreeSet<Vec<String>> = circles.collect();
        problems.extend(circles.iter().map(|circle| format!("{}: {}", folder.display(), circle.join(" → "))));
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// The checker itself finds a circle.
#[test]
fn a_circle_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "mod a; mod b; mod c;");
    write("a.rs", "use {crate::{b::B, c}, std::fmt}; mod inner;");
    write("a/inner.rs", "use super::A;");
    write("b.rs", "fn f() { crate::c::call(); }");
    write("c.rs", "#[cfg(test)] mod tests { use crate::a::A; }");
    let straight = imports(folder.path());
    assert_eq!(straight["a"], BTreeSet::from(["b".to_owned(), "c".to_owned()]));
    assert_eq!(circle(&straight, "a"), None);
    write("c.rs", "use super::a;");
    assert_eq!(circle(&imports(folder.path()), "a"), Some(["a", "c", "a"].map(str::to_owned).to_vec()));
}

fn imports(source: &Path) -> Imports {
    let files = files(source);
    let module_of = |file: &Path| {
        let first = file.strip_prefix(source).unwrap().components().next().unwrap();
        Path::new(first.as_os_str()).file_stem().unwrap().to_str().unwrap().to_owned()
    };
    let modules: BTreeSet<String> = files.iter().map(|file| module_of(file)).collect();
    let mut imports = Imports::new();
    for file in &files {
        let module = module_of(file);
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let parsed = syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap();
        // In a top-level module, `super` is the root of the crate.
        let is_top = file.parent() == Some(source);
        let mut named = Named { is_top, names: BTreeSet::new() };
        named.visit_file(&parsed);
        named.names.remove(&module);
        imports.entry(module).or_default().extend(named.names.into_iter().filter(|name| modules.contains(name)));
    }
    imports
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The shortest path from a module back to itself.
fn circle(imports: &Imports, from: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in imports.get(way.last()?).into_iter().flatten() {
                let way = [&way[..], std::slice::from_ref(next)].concat();
                if next == from {
                    return Some(way);
                }
                if seen.insert(next.clone()) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}

/// Names that a file uses right after the root of its crate.
struct Named {
    is_top: bool,
    names: BTreeSet<String>,
}

impl Named {
    fn is_root(&self, name: &syn::Ident) -> bool {
        name == "crate" || (self.is_top && name == "super")
    }

    /// Visits a `use` tree that may begin at the root.
    fn root(&mut self, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) if self.is_root(&path.ident) => self.tree(&path.tree),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.root(tree)),
            _ => {}
        }
    }

    /// Collects the first names below the root.
    fn tree(&mut self, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => drop(self.names.insert(path.ident.to_string())),
            syn::UseTree::Name(name) => drop(self.names.insert(name.ident.to_string())),
            syn::UseTree::Rename(name) => drop(self.names.insert(name.ident.to_string())),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree)),
            syn::UseTree::Glob(_) => {}
        }
    }
}

impl<'ast> Visit<'ast> for Named {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_test = |attribute: &syn::Attribute| {
            let list = attribute.meta.require_list();
            attribute.path().is_ident("cfg") && list.is_ok_and(|list| list.tokens.to_string() == "test")
        };
        if !item.attrs.iter().any(is_test) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.root(&item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let (Some(first), Some(second)) = (path.segments.first(), path.segments.get(1))
            && self.is_root(&first.ident)
        {
            self.names.insert(second.ident.to_string());
        }
        visit::visit_path(self, path);
    }
}

//! The names of what a component imports and exports, and which world that makes it implement.
//!
//! Parsing takes time that grows with the input, so a host leaves it to the child process that compiles; the names come
//! back as lines of text. Whether the types behind the names are right shows when the component is compiled and linked.

use wasmparser::{Parser, Payload};

use crate::world::World;

type Source = Box<dyn std::error::Error + Send + Sync>;

const IMPORT: &str = "import ";
const EXPORT: &str = "export ";

/// Names of the interfaces, and of functions outside of any, that a component imports and exports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interfaces {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

impl Interfaces {
    /// Reads them from the bytes of a component; the error says what is not valid.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Interfaces, Source> {
        let mut interfaces = Interfaces::default();
        // Modules and components inside have imports and exports too.
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        interfaces.imports.push(printable(import?.name.name)?);
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        interfaces.exports.push(printable(export?.name.name)?);
                    }
                }
                _ => {}
            }
        }
        Ok(interfaces)
    }

    /// Checks that a component with these interfaces is of this world; the error is the reason why it is not.
    pub(crate) fn check(&self, world: World) -> Result<(), String> {
        let Interfaces { imports, exports } = self;
        if !self.has_export(world) {
            let expected = world.export();
            return Err(format!(
                "it exports {exports:?}, expected `{expected}`: generate its bindings from that world in `wit/`"
            ));
        }
        let unknown: Vec<&String> = imports.iter().filter(|name| !world.has_import(name)).collect();
        if !unknown.is_empty() {
            return Err(format!(
                "it imports {unknown:?}, which functions of this world do not have: build it without them"
            ));
        }
        Ok(())
    }

    /// The first world whose interface is exported.
    ///
    /// # Errors
    /// There is none; the text is the reason, and what was expected.
    pub(crate) fn world(&self) -> Result<World, String> {
        World::ALL.into_iter().find(|world| self.has_export(*world)).ok_or_else(|| {
            let expected = World::ALL.map(|world| format!("`{}` (world `{world}`)", world.export())).join(" or ");
            let exports = &self.exports;
            format!("it exports {exports:?}, expected {expected}: generate its bindings from one of them in `wit/`")
        })
    }

    /// A line of text for each name.
    pub(crate) fn to_text(&self) -> String {
        let imports = self.imports.iter().map(|name| format!("{IMPORT}{name}\n"));
        let exports = self.exports.iter().map(|name| format!("{EXPORT}{name}\n"));
        imports.chain(exports).collect()
    }

    /// The names in lines that [`to_text`](Self::to_text) wrote; `None` if another line is among them.
    pub(crate) fn from_text(text: &str) -> Option<Interfaces> {
        let mut interfaces = Interfaces::default();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix(IMPORT) {
                interfaces.imports.push(name.to_owned());
            } else {
                interfaces.exports.push(line.strip_prefix(EXPORT)?.to_owned());
            }
        }
        Some(interfaces)
    }

    fn has_export(&self, world: World) -> bool {
        self.exports.iter().any(|name| name == world.export())
    }
}

/// A name that is fit for a line of text and for a terminal.
fn printable(name: &str) -> Result<String, Source> {
    if name.chars().any(char::is_control) {
        return Err(format!("the name {name:?} has control characters").into());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_control_characters_are_refused() {
        for name in ["a\nexport b", "\u{1b}[2K"] {
            assert!(printable(name).is_err(), "{name:?}");
        }
        assert_eq!(printable("wasi:io/streams@0.2.0").expect("a name"), "wasi:io/streams@0.2.0");
    }

    fn interfaces(imports: &[&str], exports: &[&str]) -> Interfaces {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Interfaces { imports: owned(imports), exports: owned(exports) }
    }

    #[test]
    fn names_survive_as_text() {
        for interfaces in
            [interfaces(&[], &[]), interfaces(&["a:b/c@0.1.0", "d"], &["e"]), interfaces(&[], &["e", "f"])]
        {
            assert_eq!(Interfaces::from_text(&interfaces.to_text()), Some(interfaces));
        }
        assert_eq!(Interfaces::from_text("import a\nother\n"), None);
    }

    #[test]
    fn the_world_follows_from_the_exports() {
        assert_eq!(interfaces(&[], &["other", World::Aggregate.export()]).world(), Ok(World::Aggregate));
        let reason = interfaces(&[], &["skein:train/gradients@0.9.0"]).world().expect_err("another version");
        let expected = "it exports [\"skein:train/gradients@0.9.0\"], expected `skein:train/gradients@0.1.0` (world `gradient`) or ";
        assert!(reason.starts_with(expected), "{reason}");
    }
}

//! Commands of README and of the pages in `docs`, run as they are written there, and checked against the outputs there.
//!
//! `docs/README.md` says which blocks are run. Those that need PyTorch, componentize-py or a Wasm target are run by
//! `cargo xtask readme --python`; here, what they make comes from `tests/data/docs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::draw;
use crate::harness::{Place, root};
use crate::page::{Block, blocks};
use crate::ready;
use crate::script::Runner;

/// Pages that run in one folder of one machine. `docs/two-machines.md` has tests of its own.
const PAGES: [&str; 5] = ["README.md", "docs/databases.md", "docs/engines.md", "docs/functions.md", "docs/pytorch.md"];
/// So that later parts have room to add ten lines each.
const README_LINES_MAX: usize = 250;

fn run(page: &str) {
    let place = Place::new();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    let runner = Runner {
        root: &root(),
        program: Path::new(env!("CARGO_BIN_EXE_skein")),
        has: &[],
        path: &[],
        variables: &[("SKEIN_CACHE_DIR", cache), ("SKEIN_SERVERS", ready::installed().to_owned())],
        shorten: true,
        print: false,
    };
    if let Err(error) = runner.run(page, &place.path("")) {
        panic!("{error:#}");
    }
}

#[test]
fn the_commands_of_readme_print_what_it_shows() {
    run(PAGES[0]);
}

#[test]
fn the_commands_of_the_page_about_databases_print_what_it_shows() {
    run(PAGES[1]);
}

#[test]
fn the_commands_of_the_page_about_engines_print_what_it_shows() {
    run(PAGES[2]);
}

#[test]
fn the_commands_of_the_page_about_functions_print_what_it_shows() {
    run(PAGES[3]);
}

#[test]
fn the_commands_of_the_page_about_pytorch_print_what_it_shows() {
    run(PAGES[4]);
}

fn read(page: &str) -> Vec<Block> {
    blocks(&fs::read_to_string(root().join(page)).unwrap())
}

/// README and the pages in `docs`.
pub(crate) fn pages() -> Vec<String> {
    let entries = fs::read_dir(root().join("docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages = names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"));
    pages.chain(["README.md".to_owned()]).collect()
}

#[test]
fn every_page_with_commands_is_run() {
    let tested: BTreeSet<_> = PAGES.into_iter().chain(["docs/two-machines.md"]).map(str::to_owned).collect();
    let with_commands = pages().into_iter().filter(|page| read(page).iter().any(|block| block.language == "sh"));
    assert_eq!(with_commands.collect::<BTreeSet<_>>(), tested);
}

#[test]
fn languages_of_blocks_are_known() {
    for page in pages() {
        for block in read(&page) {
            let known = ["sh", "text", "toml", "rust", "python"].contains(&block.language.as_str());
            assert!(known, "{page}:{}: `{}` says nothing about the block", block.line, block.language);
        }
    }
}

#[test]
fn readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= README_LINES_MAX, "README has {lines} lines: move some to a page in `docs`");
}

/// Lines without comments and indentation.
fn code(block: &Block) -> Vec<String> {
    let lines = block.text.lines().map(|line| line.split("  #").next().unwrap_or_default().trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

/// The block of README's language that contains a text, and the one of a page.
fn both(language: &str, part: &str, page: &str) -> [Vec<String>; 2] {
    ["README.md", page].map(|page| {
        let found = read(page).into_iter().find(|block| block.language == language && block.text.contains(part));
        code(&found.unwrap_or_else(|| panic!("`{page}` has no {language} with `{part}`")))
    })
}

#[test]
fn snippets_of_readme_are_those_that_the_pages_try() {
    let [function, tried] = both("rust", "export!", "docs/functions.md");
    assert_eq!(function, tried);
    let [export, tried] = both("python", "dynamo=True", "docs/pytorch.md");
    let missing: Vec<_> = export.iter().filter(|line| !tried.contains(line) && !line.starts_with("model.")).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_picture_is_drawn_from_its_text() {
    let svg = draw::svg(&fs::read_to_string(root().join(draw::SOURCE)).unwrap()).unwrap();
    let present = fs::read_to_string(root().join(draw::PICTURE)).unwrap();
    assert!(svg == present, "`{}` is stale: run `cargo xtask picture`", draw::PICTURE);
}

/// What the tests take from `tests/data/docs` is what a page makes.
#[test]
fn every_file_that_stands_for_a_block_is_made_by_one() {
    let name = |file: &str| PathBuf::from(file).file_name().unwrap().to_owned();
    let made = pages().into_iter().flat_map(|page| read(&page));
    let made: BTreeSet<_> = made.flat_map(|block| block.list("makes").map(name).collect::<Vec<_>>()).collect();
    let present = fs::read_dir(root().join(crate::script::MADE)).unwrap();
    let present: Vec<PathBuf> = present.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(present.iter().map(|path| name(path.to_str().unwrap())).collect::<BTreeSet<_>>(), made);
    for path in present {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        assert!(!text.contains(".py"), "{} names the files of the machine that made it", path.display());
    }
}

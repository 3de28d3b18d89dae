//! `cargo xtask configuration`: writes the tables of all manifest keys in `docs/configuration.md`.

pub(crate) mod tables;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

pub(crate) fn run(root: &Path) -> Result<()> {
    let path = root.join(tables::PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let tables = tables::of(&skein_job::manifest::schema());
    let written = tables::replaced(&page, &tables).context("the page has no marks for the tables")?;
    fs::write(&path, written).with_context(|| format!("failed to write `{}`", path.display()))
}

//! `cargo xtask picture`: draws `docs/round.svg` from the text in `docs/round.txt`.

pub(crate) mod draw;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

pub(crate) fn run(root: &Path) -> Result<()> {
    let text =
        fs::read_to_string(root.join(draw::SOURCE)).with_context(|| format!("failed to read `{}`", draw::SOURCE))?;
    let svg = draw::svg(&text)?;
    fs::write(root.join(draw::PICTURE), svg).with_context(|| format!("failed to write `{}`", draw::PICTURE))?;
    println!("wrote {}", draw::PICTURE);
    Ok(())
}

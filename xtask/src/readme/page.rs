//! The fenced blocks of a page, and what their first lines say about them.
//!
//! The words after a block's language are explained in `docs/README.md`. Blocks without such words are run as well if
//! their language is `sh`, and are the output of the block before if it is `text`.

/// A fenced block of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// The language: `sh`, `text`, `toml` and so on; may be empty.
    pub(crate) language: String,
    /// Words after the language, such as `alice`, `background` or `file=skein.toml`.
    pub(crate) words: Vec<String>,
    /// What is between the fences.
    pub(crate) text: String,
    /// Line of the opening fence, from 1 on.
    pub(crate) line: usize,
}

impl Block {
    /// The value of the word `key=value`.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// The members of a list `key=a,b`; none if there is no such word.
    pub(crate) fn list(&self, key: &str) -> impl Iterator<Item = &str> {
        self.value(key).into_iter().flat_map(|value| value.split(','))
    }

    /// The commands of the block: its lines without comments and empty ones.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    }
}

/// Returns the fenced blocks of a page in their order.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in page.lines().enumerate() {
        let Some(fence) = line.strip_prefix("```") else {
            if let Some(block) = &mut open {
                block.text += line;
                block.text.push('\n');
            }
            continue;
        };
        match open.take() {
            Some(block) => blocks.push(block),
            None => {
                let mut words = fence.split_whitespace().map(str::to_owned);
                let language = words.next().unwrap_or_default();
                open = Some(Block { language, words: words.collect(), text: String::new(), line: number + 1 });
            }
        }
    }
    blocks
}

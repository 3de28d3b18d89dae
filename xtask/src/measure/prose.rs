//! The repository's prose: words that it does without, and documentation that says nothing.

/// Words of no English documentation, or that a better one replaces.
pub(crate) const FORBIDDEN: [&str; 8] =
    ["can not", "whoever", "spoilt", "hands out", "gives back", "makes no sense", "all the same", "says so"];

/// Extensions of the files that hold prose.
pub(crate) const EXTENSIONS: [&str; 5] = ["rs", "md", "toml", "wit", "conf"];

/// Words of a doc comment that is counted as short.
const SHORT_WORDS_MAX: usize = 3;

/// The numbers of all lines with a forbidden word, from 1, and that word.
pub(crate) fn forbidden(text: &str) -> Vec<(usize, &'static str)> {
    let text = text.to_lowercase();
    let lines = text.lines().enumerate();
    let found = lines.flat_map(|(index, line)| {
        let words = FORBIDDEN.iter().filter(move |word| has_words(line, word));
        words.map(move |word| (index + 1, *word)).collect::<Vec<_>>()
    });
    found.collect()
}

/// Whether the words occur in a line, not as part of longer ones.
fn has_words(line: &str, words: &str) -> bool {
    line.match_indices(words).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + words.len()..].chars().next();
        [before, after].into_iter().flatten().all(|next| !next.is_alphanumeric())
    })
}

/// How many lines of documentation a source file has, and how many of them are a whole comment of three words or fewer.
pub(crate) fn documentation(source: &str) -> [usize; 2] {
    let mut counts = [0; 2];
    let mut comment: Vec<&str> = Vec::new();
    for line in source.lines().chain([""]) {
        let line = line.trim_start();
        if let Some(text) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) {
            comment.push(text);
            continue;
        }
        let words: usize = comment.iter().map(|text| text.split_whitespace().count()).sum();
        counts[0] += comment.len();
        counts[1] += usize::from(!comment.is_empty() && words <= SHORT_WORDS_MAX);
        comment.clear();
    }
    counts
}

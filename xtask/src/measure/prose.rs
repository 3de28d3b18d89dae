//! The repository's prose: words that it does without, and documentation that says nothing.

/// Words of no English documentation, or that a better one replaces.
pub(crate) const FORBIDDEN: [&str; 8] =
    ["can not", "whoever", "spoilt", "hands out", "gives back", "makes no sense", "all the same", "says so"];

/// Extensions of the files that hold prose.
pub(crate) const EXTENSIONS: [&str; 5] = ["rs", "md", "toml", "wit", "conf"];

/// Words of a doc comment that is counted as short.
const SHORT_WORDS_MAX: usize = 3;

/// The line, from 1, on which each forbidden word begins, and that word. Words are found across the ends of lines too.
pub(crate) fn forbidden(text: &str) -> Vec<(usize, &'static str)> {
    let mut prose = String::with_capacity(text.len());
    let mut starts = Vec::new();
    for line in text.lines() {
        starts.push(prose.len());
        let line = line.trim_start().trim_start_matches(['/', '!', '#', '>', '*']);
        prose.push_str(line.trim());
        prose.push(' ');
    }
    let prose = prose.to_ascii_lowercase();
    let found = FORBIDDEN.iter().flat_map(|word| {
        let places = word_indices(&prose, word);
        places.map(|at| (starts.partition_point(|start| *start <= at), *word)).collect::<Vec<_>>()
    });
    found.collect()
}

/// Where the words occur in a text, not as part of longer ones.
fn word_indices<'a>(text: &'a str, words: &'a str) -> impl Iterator<Item = usize> + 'a {
    let stands_alone = move |at: &usize| {
        let before = text[..*at].chars().next_back();
        let after = text[at + words.len()..].chars().next();
        [before, after].into_iter().flatten().all(|next| !next.is_alphanumeric())
    };
    text.match_indices(words).map(|(at, _)| at).filter(stands_alone)
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

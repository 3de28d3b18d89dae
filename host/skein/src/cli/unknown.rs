//! Options that other tools have and this one does not, answered with the key of the manifest that does the same.

use std::ffi::OsString;

use clap::Command;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use skein_job::manifest::{how_to_set, key_of_option};

/// The name of the option that sets a key of the manifest.
const SET: &str = "set";

/// The error about `words`, the command line of `program`, with a tip if an unknown option has a key in the manifest.
pub(super) fn advised(mut error: Error, program: &Command, words: &[OsString]) -> Error {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return error };
    let is_unknown = error.kind() == ErrorKind::UnknownArgument && option.starts_with("--");
    if let Some(tip) = is_unknown.then(|| tip(option, chosen(program, words), words)).flatten() {
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    }
    error
}

/// The subcommand that the words name.
fn chosen<'a>(program: &'a Command, words: &[OsString]) -> &'a Command {
    words.iter().skip(1).fold(program, |command, word| command.find_subcommand(word).unwrap_or(command))
}

/// What to write in place of `option`; `None` if it has no key, or the command takes no keys.
fn tip(option: &str, command: &Command, words: &[OsString]) -> Option<String> {
    let has = |name: &str| command.get_arguments().any(|argument| argument.get_long() == Some(name));
    let key = key_of_option(option).filter(|_| has(SET))?;
    let own = key.rsplit('.').next().filter(|own| has(own));
    Some(match own {
        Some("rounds") => {
            "training is counted in rounds, each one step of the optimizer: use `--rounds N`; an epoch is one pass of a peer \
             over its samples"
                .to_owned()
        }
        Some(own) => format!("`--{own}` sets `{key}`"),
        None => how_to_set(&key, value_of(option, words).as_deref()),
    })
}

/// The value that was given with an option: after `=`, or as the next word.
fn value_of(option: &str, words: &[OsString]) -> Option<String> {
    let mut words = words.iter().filter_map(|word| word.to_str());
    let word = words.find(|word| word.split('=').next() == Some(option))?;
    let value = word.split_once('=').map(|(_, value)| value);
    value.or_else(|| words.next().filter(|next| !next.starts_with("--"))).map(str::to_owned)
}

//! Text forms of what a table names: `name`, or `name(parameter=value,parameter=value)`.
//!
//! Manifests, commands of the database, logs and tests spell rules and optimizers this way.

use std::fmt;

/// Characters of a text that a message repeats; whoever sent it may have sent megabytes.
const QUOTED_MAX: usize = 64;

/// A text that names nothing known, or a value that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError(String);

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TextError {}

/// A part of a text as a message repeats it: short, in one line and without control characters.
fn quoted(text: &str) -> String {
    let (mut characters, mut short) = (text.chars(), String::new());
    short.extend(characters.by_ref().take(QUOTED_MAX).flat_map(char::escape_debug));
    if characters.next().is_some() {
        short.push('…');
    }
    format!("`{short}`")
}

/// Names as a message lists them.
fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// There is no `what` of that name among `known`.
pub(crate) fn unknown<'n>(what: &str, name: &str, known: impl Iterator<Item = &'n str>) -> TextError {
    TextError(format!("there is no {what} {}: choose one of {}", quoted(name), listed(known)))
}

/// The value of a parameter does not fit.
pub(crate) fn unfit(owner: &str, parameter: &str, takes: impl fmt::Display, value: &str) -> TextError {
    TextError(format!("`{parameter}` of `{owner}` must be {takes}, got {}", quoted(value)))
}

/// The name in a text form, and what stands in its parentheses.
///
/// # Errors
/// A parenthesis that is not closed at the end.
pub(crate) fn split(text: &str) -> Result<(&str, Option<&str>), TextError> {
    let Some((name, rest)) = text.split_once('(') else { return Ok((text, None)) };
    let list = rest
        .strip_suffix(')')
        .ok_or_else(|| TextError(format!("{} must end with the `)` that closes its parameters", quoted(text))))?;
    Ok((name, Some(list)))
}

/// Writes a text form: only the name if no parameter is given.
pub(crate) fn write<V: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    parameters: impl Iterator<Item = (&'static str, V)>,
) -> fmt::Result {
    f.write_str(name)?;
    let mut is_first = true;
    for (parameter, value) in parameters {
        write!(f, "{}{parameter}={value}", if is_first { '(' } else { ',' })?;
        is_first = false;
    }
    f.write_str(if is_first { "" } else { ")" })
}

/// Names and values in a list such as `a=1,b=2`; the value of what has no `=` is empty.
pub(crate) fn pairs(list: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    let pairs = list.into_iter().flat_map(|list| list.split(','));
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Where a parameter of `owner` stands among `names`.
///
/// # Errors
/// `owner` has none of that name.
pub(crate) fn position(owner: &str, names: &[&str], parameter: &str) -> Result<usize, TextError> {
    names.iter().position(|name| *name == parameter).ok_or_else(|| {
        let parameter = quoted(parameter);
        match names {
            [] => TextError(format!("`{owner}` takes no parameters, got {parameter}")),
            _ => {
                TextError(format!("`{owner}` has no parameter {parameter}: it takes {}", listed(names.iter().copied())))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_form_has_a_name_and_pairs() {
        let read = |text| split(text).map(|(name, list)| (name, pairs(list).collect::<Vec<_>>()));
        assert_eq!(read("x"), Ok(("x", vec![])));
        assert_eq!(read("x(b=2,a)"), Ok(("x", vec![("b", "2"), ("a", "")])));
        assert_eq!(read("x()"), Ok(("x", vec![("", "")])));
        let error = read("x(a=1").expect_err("it is not closed").to_string();
        assert_eq!(error, "`x(a=1` must end with the `)` that closes its parameters");
    }

    #[test]
    fn a_parameter_that_there_is_not_is_named() {
        let message = |names: &[&str]| position("x", names, "c").expect_err("it is not there").to_string();
        assert_eq!(message(&["a", "b"]), "`x` has no parameter `c`: it takes `a`, `b`");
        assert_eq!(message(&[]), "`x` takes no parameters, got `c`");
    }

    /// A server sends messages to clients in one line that ends at a zero.
    #[test]
    fn a_message_repeats_little_and_no_control_characters() {
        assert_eq!(quoted("a\0b\r\nc"), "`a\\0b\\r\\nc`");
        assert_eq!(quoted(&"x".repeat(1 << 20)).chars().count(), QUOTED_MAX + 3);
    }
}

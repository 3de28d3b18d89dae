//! Text forms of rules and optimizers: `name`, or `name(parameter=value,parameter=value)`.
//!
//! Manifests, database commands, logs and tests use them.

use std::fmt;

/// Most characters of a text that a message repeats; a client may have sent megabytes.
const QUOTED_MAX: usize = 64;

/// A text form that is malformed, names something unknown or has an invalid value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError(String);

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TextError {}

/// Part of a text, quoted for a message: short, in one line and without control characters.
fn quoted(text: &str) -> String {
    let (mut characters, mut short) = (text.chars(), String::new());
    short.extend(characters.by_ref().take(QUOTED_MAX).flat_map(char::escape_debug));
    if characters.next().is_some() {
        short.push('…');
    }
    format!("`{short}`")
}

/// Names, quoted and listed for a message.
fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The error for a `what` whose name is not among `known`.
pub(crate) fn unknown<'n>(what: &str, name: &str, known: impl Iterator<Item = &'n str>) -> TextError {
    TextError(format!("there is no {what} {}: choose one of {}", quoted(name), listed(known)))
}

/// The error for an invalid value of a parameter.
pub(crate) fn unfit(owner: &str, parameter: &str, takes: impl fmt::Display, value: &str) -> TextError {
    TextError(format!("{} of `{owner}` must be {takes}, got {}", quoted(parameter), quoted(value)))
}

/// The name in a text form, and the content of its parentheses.
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

/// Values in a list such as `a=1,b=2`, in the order of `names`; a parameter without `=` has an empty value.
///
/// # Errors
/// A parameter that `owner` does not have, or that is given twice, so that the list is never longer than the table.
pub(crate) fn values<'t>(
    owner: &str,
    names: &[&str],
    list: Option<&'t str>,
) -> Result<Vec<Option<&'t str>>, TextError> {
    let mut values = vec![None; names.len()];
    for pair in list.into_iter().flat_map(|list| list.split(',')) {
        let (parameter, value) = pair.split_once('=').unwrap_or((pair, ""));
        let place = &mut values[position(owner, names, parameter)?];
        if place.replace(value).is_some() {
            return Err(TextError(format!("`{parameter}` of `{owner}` is given twice")));
        }
    }
    Ok(values)
}

/// The index of a parameter of `owner` among `names`.
///
/// # Errors
/// `owner` has no parameter of that name.
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
    fn values_are_in_the_order_of_the_names() {
        let read = |text| split(text).and_then(|(name, list)| values(name, &["a", "b"], list));
        assert_eq!(read("x"), Ok(vec![None, None]));
        assert_eq!(read("x(b=2,a)"), Ok(vec![Some(""), Some("2")]));
        for (text, message) in [
            ("x(a=1", "`x(a=1` must end with the `)` that closes its parameters"),
            ("x()", "`x` has no parameter ``: it takes `a`, `b`"),
            ("x(a=1,)", "`x` has no parameter ``: it takes `a`, `b`"),
            ("x(a=1,a=1)", "`a` of `x` is given twice"),
        ] {
            assert_eq!(read(text).expect_err("it is refused").to_string(), message);
        }
    }

    #[test]
    fn an_unknown_parameter_is_named() {
        let message = |names: &[&str]| position("x", names, "c").expect_err("it is unknown").to_string();
        assert_eq!(message(&["a", "b"]), "`x` has no parameter `c`: it takes `a`, `b`");
        assert_eq!(message(&[]), "`x` takes no parameters, got `c`");
    }

    /// A server sends a message to a client as one line, which ends at a zero byte.
    #[test]
    fn a_message_repeats_little_and_no_control_characters() {
        assert_eq!(quoted("a\0b\r\nc"), "`a\\0b\\r\\nc`");
        assert_eq!(quoted(&"x".repeat(1 << 20)).chars().count(), QUOTED_MAX + 3);
    }
}

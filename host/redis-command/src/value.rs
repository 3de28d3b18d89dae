//! Values that a command has as text.

use std::num::ParseIntError;
use std::str::FromStr;

use skein_kernels::optimizer::Optimizer;
use skein_kernels::rule::Rule;
use skein_kernels::rules;

use crate::syntax::SyntaxError;

/// A value that is one argument of a command, as text.
pub trait Value: Sized {
    /// Reads the value; messages call it `name`.
    ///
    /// # Errors
    /// The text is not a value of this type.
    fn read(name: &str, text: &str) -> Result<Self, SyntaxError>;

    /// The text from which [`Value::read`] restores the same value, bit for bit.
    fn text(&self) -> String;
}

fn whole<T: FromStr<Err = ParseIntError>>(name: &str, text: &str) -> Result<T, SyntaxError> {
    text.parse().map_err(|_| SyntaxError(format!("`{name}` must be a whole number in range")))
}

impl Value for u32 {
    fn read(name: &str, text: &str) -> Result<u32, SyntaxError> {
        whole(name, text)
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for usize {
    fn read(name: &str, text: &str) -> Result<usize, SyntaxError> {
        whole(name, text)
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// A version or a round, which must fit the signed integers of replies.
impl Value for u64 {
    fn read(name: &str, text: &str) -> Result<u64, SyntaxError> {
        let value: u64 = whole(name, text)?;
        i64::try_from(value)
            .map(|_| value)
            .map_err(|_| SyntaxError(format!("`{name}` must be less than 2^63, got {value}")))
    }

    fn text(&self) -> String {
        debug_assert!(i64::try_from(*self).is_ok(), "{self} is not less than 2^63");
        self.to_string()
    }
}

impl Value for f32 {
    fn read(name: &str, text: &str) -> Result<f32, SyntaxError> {
        text.parse().map_err(|_| SyntaxError(format!("`{name}` is not a number")))
    }

    /// The shortest text that is read as the same bits.
    fn text(&self) -> String {
        self.to_string()
    }
}

/// A bound or `none`. A bound is not negative, so that the range from its negative to it is not empty.
impl Value for Option<f32> {
    fn read(name: &str, text: &str) -> Result<Option<f32>, SyntaxError> {
        if text.eq_ignore_ascii_case("none") {
            return Ok(None);
        }
        let bound = text.parse().ok().filter(|bound| *bound >= 0.0);
        bound.map(Some).ok_or_else(|| SyntaxError(format!("`{name}` must be a number of at least 0, or `none`")))
    }

    fn text(&self) -> String {
        self.map_or_else(|| "none".to_owned(), |bound| bound.to_string())
    }
}

/// The text form of a rule, read as one that tolerates no Byzantine peers.
impl Value for Rule {
    fn read(_name: &str, text: &str) -> Result<Rule, SyntaxError> {
        rules::parse(text, 0).map_err(|error| SyntaxError(error.to_string()))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for Optimizer {
    fn read(_name: &str, text: &str) -> Result<Optimizer, SyntaxError> {
        text.parse().map_err(|error: skein_kernels::TextError| SyntaxError(error.to_string()))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

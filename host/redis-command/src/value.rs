//! Values that stand as text in a command.

use std::num::ParseIntError;
use std::str::FromStr;

use skein_kernels::optimizer::Optimizer;
use skein_kernels::rule::Rule;
use skein_kernels::rules;

use crate::syntax::SyntaxError;

/// A value that stands as one argument.
pub trait Value: Sized {
    /// Reads it; `name` is what messages call it.
    ///
    /// # Errors
    /// The text is not a value of this type.
    fn read(name: &str, text: &str) -> Result<Self, SyntaxError>;

    /// Its text, from which [`Value::read`] makes the same value, bit for bit.
    fn text(&self) -> String;
}

fn whole<T: FromStr<Err = ParseIntError>>(name: &str, text: &str) -> Result<T, SyntaxError> {
    text.parse().map_err(|_| SyntaxError(format!("`{name}` is not a whole number that fits")))
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

/// Versions and rounds, which have to fit the integers of replies.
impl Value for u64 {
    fn read(name: &str, text: &str) -> Result<u64, SyntaxError> {
        let value = whole(name, text)?;
        i64::try_from(value).map(|_| value).map_err(|_| SyntaxError(format!("`{name}` is 2^63 or more")))
    }

    fn text(&self) -> String {
        debug_assert!(i64::try_from(*self).is_ok(), "{self} is 2^63 or more");
        self.to_string()
    }
}

impl Value for f32 {
    fn read(name: &str, text: &str) -> Result<f32, SyntaxError> {
        text.parse().map_err(|_| SyntaxError(format!("`{name}` is not a number")))
    }

    /// As short as it can be and still the same bits when it is read.
    fn text(&self) -> String {
        self.to_string()
    }
}

/// A bound or `none`. It is not negative: between a bound and its negative there has to be something.
impl Value for Option<f32> {
    fn read(name: &str, text: &str) -> Result<Option<f32>, SyntaxError> {
        if text.eq_ignore_ascii_case("none") {
            return Ok(None);
        }
        let bound = text.parse().ok().filter(|bound| *bound >= 0.0);
        bound.map(Some).ok_or_else(|| SyntaxError(format!("`{name}` is not a number from 0 up, or `none`")))
    }

    fn text(&self) -> String {
        self.map_or_else(|| "none".to_owned(), |bound| bound.to_string())
    }
}

/// The text form of a rule, which tolerates nothing until it is told.
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

//! What goes through the arguments of a command: a reader and a writer.

use std::borrow::Cow;

use crate::KEYS_MAX;
use crate::syntax::Syntax;
use crate::value::Value;

/// One pass through the arguments of a command, which fills in what it reads or writes what is there.
///
/// Every method has the errors of [`Command::arguments`](crate::Command::arguments).
#[expect(clippy::missing_errors_doc, reason = "they are the same for all, and told once")]
pub trait Form {
    /// What becomes of a key or a blob.
    type Argument: Default;

    /// A key or a blob.
    fn argument(&mut self, name: &'static str, argument: &mut Self::Argument) -> Result<(), Syntax>;

    /// Keys behind their number.
    fn keys(&mut self, count: &'static str, name: &'static str, keys: &mut Vec<Self::Argument>) -> Result<(), Syntax>;

    /// Keys up to the last argument, one at least.
    fn all_keys(&mut self, name: &'static str, keys: &mut Vec<Self::Argument>) -> Result<(), Syntax>;

    /// A value as text, if `fits` says so; `takes` describes what does.
    fn value_if<T: Value>(
        &mut self,
        name: &'static str,
        value: &mut T,
        fits: fn(&T) -> bool,
        takes: &'static str,
    ) -> Result<(), Syntax>;

    /// A value as text.
    fn value<T: Value>(&mut self, name: &'static str, value: &mut T) -> Result<(), Syntax> {
        self.value_if(name, value, |_| true, "")
    }

    /// Values behind their number.
    fn values<T: Value>(&mut self, name: &'static str, values: &mut Vec<T>) -> Result<(), Syntax>;

    /// Values up to the last argument, `max` at most; there may be none.
    fn all_values<T: Value>(&mut self, name: &'static str, max: usize, values: &mut Vec<T>) -> Result<(), Syntax>;

    /// A word that has to stand here.
    fn word(&mut self, word: &'static str) -> Result<(), Syntax>;
}

/// Reads arguments one after the other.
pub(crate) struct Reader<G> {
    count: usize,
    get: G,
    next: usize,
}

impl<'a, G: Fn(usize) -> &'a [u8]> Reader<G> {
    /// Begins behind the command's name.
    pub(crate) fn new(count: usize, get: G) -> Reader<G> {
        Reader { count, get, next: 1 }
    }

    /// Refuses arguments that nothing has read.
    pub(crate) fn end(&self) -> Result<(), Syntax> {
        match self.left() {
            0 => Ok(()),
            left => Err(Syntax(format!("there are {left} arguments too many"))),
        }
    }

    fn left(&self) -> usize {
        self.count.saturating_sub(self.next)
    }

    /// Places of the next `count` arguments.
    fn places(&mut self, count: usize, name: &str) -> Result<std::ops::Range<usize>, Syntax> {
        if count > self.left() {
            let missing = if count == 1 { "is missing" } else { "is there fewer times than was said" };
            return Err(Syntax(format!("`{name}` {missing}")));
        }
        self.next += count;
        Ok(self.next - count..self.next)
    }

    fn place(&mut self, name: &str) -> Result<usize, Syntax> {
        self.places(1, name).map(|places| places.start)
    }

    fn text(&mut self, name: &str) -> Result<&'a str, Syntax> {
        let place = self.place(name)?;
        std::str::from_utf8((self.get)(place)).map_err(|_| Syntax(format!("`{name}` is not text")))
    }

    fn some_values<T: Value>(&mut self, count: usize, name: &'static str) -> Result<Vec<T>, Syntax> {
        // Before anything is allocated for what somebody only says is there.
        if count > self.left() {
            return Err(Syntax(format!("there are fewer than {count} of `{name}`")));
        }
        (0..count).map(|_| T::read(name, self.text(name)?)).collect()
    }
}

impl<'a, G: Fn(usize) -> &'a [u8]> Form for Reader<G> {
    type Argument = usize;

    fn argument(&mut self, name: &'static str, argument: &mut usize) -> Result<(), Syntax> {
        *argument = self.place(name)?;
        Ok(())
    }

    /// An access list is held against the keys that the server finds, by the same number. Where the server cannot read
    /// one, or reads zero, it finds no keys of the whole command and lets it pass.
    fn keys(&mut self, count: &'static str, name: &'static str, keys: &mut Vec<usize>) -> Result<(), Syntax> {
        let place = self.place(count)?;
        let number = key_count((self.get)(place)).ok_or_else(|| {
            Syntax(format!("`{count}` is not a number from 1 to {KEYS_MAX} without sign and leading zeros"))
        })?;
        *keys = self.places(number, name)?.collect();
        Ok(())
    }

    fn all_keys(&mut self, name: &'static str, keys: &mut Vec<usize>) -> Result<(), Syntax> {
        match self.left() {
            0 => Err(Syntax(format!("`{name}` is missing"))),
            left if left > KEYS_MAX => Err(Syntax(format!("{left} keys are more than {KEYS_MAX}"))),
            left => {
                *keys = self.places(left, name)?.collect();
                Ok(())
            }
        }
    }

    fn value_if<T: Value>(
        &mut self,
        name: &'static str,
        value: &mut T,
        fits: fn(&T) -> bool,
        takes: &'static str,
    ) -> Result<(), Syntax> {
        *value = T::read(name, self.text(name)?)?;
        if fits(value) { Ok(()) } else { Err(Syntax(format!("`{name}` must be {takes}"))) }
    }

    fn values<T: Value>(&mut self, name: &'static str, values: &mut Vec<T>) -> Result<(), Syntax> {
        let mut count = 0usize;
        self.value("number of values", &mut count)?;
        *values = self.some_values(count, name)?;
        Ok(())
    }

    fn all_values<T: Value>(&mut self, name: &'static str, max: usize, values: &mut Vec<T>) -> Result<(), Syntax> {
        let left = self.left();
        if left > max {
            return Err(Syntax(format!("{left} of `{name}` are more than {max}")));
        }
        *values = self.some_values(left, name)?;
        Ok(())
    }

    fn word(&mut self, word: &'static str) -> Result<(), Syntax> {
        let text = self.text(word)?;
        if text.eq_ignore_ascii_case(word) { Ok(()) } else { Err(Syntax(format!("`{word}` is expected"))) }
    }
}

/// A count of keys that is not too large, in the only spelling that the server takes.
fn key_count(text: &[u8]) -> Option<usize> {
    let is_canonical = text.first().is_some_and(|digit| *digit != b'0') && text.iter().all(u8::is_ascii_digit);
    let count = std::str::from_utf8(text).ok().filter(|_| is_canonical)?;
    count.parse().ok().filter(|count| *count <= KEYS_MAX)
}

/// Writes arguments one after the other.
pub(crate) struct Writer<'a> {
    arguments: Vec<Cow<'a, [u8]>>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(name: &'static [u8]) -> Writer<'a> {
        Writer { arguments: vec![Cow::Borrowed(name)] }
    }

    pub(crate) fn finish(self) -> Vec<Cow<'a, [u8]>> {
        self.arguments
    }

    fn push(&mut self, text: String) {
        self.arguments.push(Cow::Owned(text.into_bytes()));
    }
}

impl<'a> Form for Writer<'a> {
    type Argument = &'a [u8];

    fn argument(&mut self, _name: &'static str, argument: &mut &'a [u8]) -> Result<(), Syntax> {
        self.arguments.push(Cow::Borrowed(argument));
        Ok(())
    }

    fn keys(&mut self, _count: &'static str, name: &'static str, keys: &mut Vec<&'a [u8]>) -> Result<(), Syntax> {
        self.push(keys.len().to_string());
        self.all_keys(name, keys)
    }

    fn all_keys(&mut self, _name: &'static str, keys: &mut Vec<&'a [u8]>) -> Result<(), Syntax> {
        debug_assert!((1..=KEYS_MAX).contains(&keys.len()), "{} keys", keys.len());
        self.arguments.extend(keys.iter().map(|key| Cow::Borrowed(*key)));
        Ok(())
    }

    fn value_if<T: Value>(
        &mut self,
        name: &'static str,
        value: &mut T,
        fits: fn(&T) -> bool,
        takes: &'static str,
    ) -> Result<(), Syntax> {
        debug_assert!(fits(value), "`{name}` must be {takes}");
        self.push(value.text());
        Ok(())
    }

    fn values<T: Value>(&mut self, name: &'static str, values: &mut Vec<T>) -> Result<(), Syntax> {
        self.push(values.len().to_string());
        self.all_values(name, usize::MAX, values)
    }

    fn all_values<T: Value>(&mut self, _name: &'static str, max: usize, values: &mut Vec<T>) -> Result<(), Syntax> {
        debug_assert!(values.len() <= max, "{} values", values.len());
        values.iter().for_each(|value| self.push(value.text()));
        Ok(())
    }

    fn word(&mut self, word: &'static str) -> Result<(), Syntax> {
        self.arguments.push(Cow::Borrowed(word.as_bytes()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_of_keys_has_one_spelling() {
        for (text, count) in [("1", 1), ("9", 9), ("10", 10), ("1024", 1024)] {
            assert_eq!(key_count(text.as_bytes()), Some(count));
        }
        for text in
            ["", "0", "-0", "-1", "+1", "01", "00", " 1", "1 ", "1\0", "1.0", "1025", "18446744073709551617", "\u{661}"]
        {
            assert_eq!(key_count(text.as_bytes()), None, "{text:?}");
        }
    }
}

//! The two passes through the arguments of a command: a reader and a writer.

use std::borrow::Cow;

use crate::KEYS_MAX;
use crate::syntax::SyntaxError;
use crate::value::Value;

/// One pass through the arguments of a command. A reader fills in the fields, a writer writes them out.
///
/// Every method has the errors of [`Command::arguments`](crate::Command::arguments). Error messages call an argument
/// `name`.
#[expect(clippy::missing_errors_doc, reason = "all methods have the same errors, documented on the trait")]
pub trait Form {
    /// A key or a blob: its place for a reader, its bytes for a writer.
    type Argument: Default;

    /// A key, which the server checks against its access list.
    fn key(&mut self, name: &'static str, key: &mut Self::Argument) -> Result<(), SyntaxError>;

    /// Bytes that are not a key.
    fn blob(&mut self, name: &'static str, blob: &mut Self::Argument) -> Result<(), SyntaxError>;

    /// A number, called `count` in messages, and that many keys.
    fn keys(
        &mut self,
        count: &'static str,
        name: &'static str,
        keys: &mut Vec<Self::Argument>,
    ) -> Result<(), SyntaxError>;

    /// All remaining arguments as keys, at least one.
    fn all_keys(&mut self, name: &'static str, keys: &mut Vec<Self::Argument>) -> Result<(), SyntaxError>;

    /// A value as text for which `fits` returns `true`; `takes` describes such values in messages.
    fn value_if<T: Value>(
        &mut self,
        name: &'static str,
        value: &mut T,
        fits: fn(&T) -> bool,
        takes: &'static str,
    ) -> Result<(), SyntaxError>;

    /// A value as text.
    fn value<T: Value>(&mut self, name: &'static str, value: &mut T) -> Result<(), SyntaxError> {
        self.value_if(name, value, |_| true, "")
    }

    /// A number, called `count` in messages, and that many values.
    fn values<T: Value>(
        &mut self,
        count: &'static str,
        name: &'static str,
        values: &mut Vec<T>,
    ) -> Result<(), SyntaxError>;

    /// All remaining arguments as values, from none to `max`.
    fn all_values<T: Value>(&mut self, name: &'static str, max: usize, values: &mut Vec<T>) -> Result<(), SyntaxError>;

    /// A fixed keyword, which a reader accepts in upper and lower case.
    fn word(&mut self, word: &'static str) -> Result<(), SyntaxError>;
}

/// Reads the arguments in order.
pub(crate) struct Reader<G> {
    count: usize,
    get: G,
    next: usize,
    /// Places of all keys read so far.
    keys: Vec<usize>,
}

impl<'a, G: Fn(usize) -> &'a [u8]> Reader<G> {
    /// A reader of `count` arguments, which starts after the command's name.
    pub(crate) fn new(count: usize, get: G) -> Reader<G> {
        Reader { count, get, next: 1, keys: Vec::new() }
    }

    /// Refuses arguments after the last one that the command takes.
    pub(crate) fn end(&self) -> Result<(), SyntaxError> {
        match self.left() {
            0 => Ok(()),
            _ => Err(SyntaxError(format!("the command takes {} arguments, got {}", self.next - 1, self.count - 1))),
        }
    }

    /// Places of all keys that were read, in their order.
    pub(crate) fn into_keys(self) -> Vec<usize> {
        self.keys
    }

    fn left(&self) -> usize {
        self.count.saturating_sub(self.next)
    }

    /// Places of the next `count` arguments.
    fn places(&mut self, count: usize, name: &str) -> Result<std::ops::Range<usize>, SyntaxError> {
        if count > self.left() {
            return Err(match count {
                1 => SyntaxError(format!("`{name}` is missing")),
                _ => SyntaxError(format!("expected {count} of `{name}`, but only {} arguments are left", self.left())),
            });
        }
        self.next += count;
        Ok(self.next - count..self.next)
    }

    fn key_places(&mut self, count: usize, name: &str, keys: &mut Vec<usize>) -> Result<(), SyntaxError> {
        *keys = self.places(count, name)?.collect();
        self.keys.extend(&*keys);
        Ok(())
    }

    fn place(&mut self, name: &str) -> Result<usize, SyntaxError> {
        self.places(1, name).map(|places| places.start)
    }

    fn text(&mut self, name: &str) -> Result<&'a str, SyntaxError> {
        let place = self.place(name)?;
        self.text_at(place, name)
    }

    fn text_at(&self, place: usize, name: &str) -> Result<&'a str, SyntaxError> {
        std::str::from_utf8((self.get)(place)).map_err(|_| SyntaxError(format!("`{name}` is not valid UTF-8")))
    }

    fn some_values<T: Value>(&mut self, count: usize, name: &'static str) -> Result<Vec<T>, SyntaxError> {
        // Nothing is allocated before `places` has checked that so many arguments exist.
        let places = self.places(count, name)?;
        places.map(|place| T::read(name, self.text_at(place, name)?)).collect()
    }
}

impl<'a, G: Fn(usize) -> &'a [u8]> Form for Reader<G> {
    type Argument = usize;

    fn key(&mut self, name: &'static str, key: &mut usize) -> Result<(), SyntaxError> {
        *key = self.place(name)?;
        self.keys.push(*key);
        Ok(())
    }

    fn blob(&mut self, name: &'static str, blob: &mut usize) -> Result<(), SyntaxError> {
        *blob = self.place(name)?;
        Ok(())
    }

    /// The server reads the same number to find the keys that it checks against its access list. If it cannot read the
    /// number, or reads zero, it finds no keys in the whole command and admits it.
    fn keys(&mut self, count: &'static str, name: &'static str, keys: &mut Vec<usize>) -> Result<(), SyntaxError> {
        let place = self.place(count)?;
        let number = key_count((self.get)(place)).ok_or_else(|| {
            SyntaxError(format!("`{count}` must be between 1 and {KEYS_MAX}, without a sign or leading zeros"))
        })?;
        self.key_places(number, name, keys)
    }

    fn all_keys(&mut self, name: &'static str, keys: &mut Vec<usize>) -> Result<(), SyntaxError> {
        match self.left() {
            0 => Err(SyntaxError(format!("`{name}` is missing"))),
            left if left > KEYS_MAX => Err(SyntaxError(format!("at most {KEYS_MAX} keys are allowed, got {left}"))),
            left => self.key_places(left, name, keys),
        }
    }

    fn value_if<T: Value>(
        &mut self,
        name: &'static str,
        value: &mut T,
        fits: fn(&T) -> bool,
        takes: &'static str,
    ) -> Result<(), SyntaxError> {
        *value = T::read(name, self.text(name)?)?;
        if fits(value) { Ok(()) } else { Err(SyntaxError(format!("`{name}` must be {takes}"))) }
    }

    fn values<T: Value>(
        &mut self,
        count: &'static str,
        name: &'static str,
        values: &mut Vec<T>,
    ) -> Result<(), SyntaxError> {
        let mut number = 0usize;
        self.value(count, &mut number)?;
        *values = self.some_values(number, name)?;
        Ok(())
    }

    fn all_values<T: Value>(&mut self, name: &'static str, max: usize, values: &mut Vec<T>) -> Result<(), SyntaxError> {
        let left = self.left();
        if left > max {
            return Err(SyntaxError(format!("at most {max} of `{name}` are allowed, got {left}")));
        }
        *values = self.some_values(left, name)?;
        Ok(())
    }

    fn word(&mut self, word: &'static str) -> Result<(), SyntaxError> {
        let text = self.text(word)?;
        if text.eq_ignore_ascii_case(word) { Ok(()) } else { Err(SyntaxError(format!("expected `{word}`"))) }
    }
}

/// A count of keys from 1 to [`KEYS_MAX`], in the only spelling that the server accepts.
fn key_count(text: &[u8]) -> Option<usize> {
    let is_canonical = text.first().is_some_and(|digit| *digit != b'0') && text.iter().all(u8::is_ascii_digit);
    let count = std::str::from_utf8(text).ok().filter(|_| is_canonical)?;
    count.parse().ok().filter(|count| *count <= KEYS_MAX)
}

/// Writes the arguments in order.
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

    fn key(&mut self, name: &'static str, key: &mut &'a [u8]) -> Result<(), SyntaxError> {
        self.blob(name, key)
    }

    fn blob(&mut self, _name: &'static str, blob: &mut &'a [u8]) -> Result<(), SyntaxError> {
        self.arguments.push(Cow::Borrowed(blob));
        Ok(())
    }

    fn keys(&mut self, _count: &'static str, name: &'static str, keys: &mut Vec<&'a [u8]>) -> Result<(), SyntaxError> {
        self.push(keys.len().to_string());
        self.all_keys(name, keys)
    }

    fn all_keys(&mut self, _name: &'static str, keys: &mut Vec<&'a [u8]>) -> Result<(), SyntaxError> {
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
    ) -> Result<(), SyntaxError> {
        debug_assert!(fits(value), "`{name}` must be {takes}");
        self.push(value.text());
        Ok(())
    }

    fn values<T: Value>(
        &mut self,
        _count: &'static str,
        name: &'static str,
        values: &mut Vec<T>,
    ) -> Result<(), SyntaxError> {
        self.push(values.len().to_string());
        self.all_values(name, usize::MAX, values)
    }

    fn all_values<T: Value>(
        &mut self,
        _name: &'static str,
        max: usize,
        values: &mut Vec<T>,
    ) -> Result<(), SyntaxError> {
        debug_assert!(values.len() <= max, "{} values", values.len());
        values.iter().for_each(|value| self.push(value.text()));
        Ok(())
    }

    fn word(&mut self, word: &'static str) -> Result<(), SyntaxError> {
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

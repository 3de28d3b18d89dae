//! What goes through the arguments of a command: a reader and a writer.

use std::borrow::Cow;

use crate::KEYS_MAX;
use crate::syntax::SyntaxError;
use crate::value::Value;

/// One pass through the arguments of a command, which fills in what it reads or writes what is there.
///
/// Every method has the errors of [`Command::arguments`](crate::Command::arguments).
#[expect(clippy::missing_errors_doc, reason = "they are the same for all, and told once")]
pub trait Form {
    /// What becomes of a key or a blob.
    type Argument: Default;

    /// A key.
    fn key(&mut self, name: &'static str, key: &mut Self::Argument) -> Result<(), SyntaxError>;

    /// Bytes that are no key.
    fn blob(&mut self, name: &'static str, blob: &mut Self::Argument) -> Result<(), SyntaxError>;

    /// Keys behind their number.
    fn keys(
        &mut self,
        count: &'static str,
        name: &'static str,
        keys: &mut Vec<Self::Argument>,
    ) -> Result<(), SyntaxError>;

    /// Keys up to the last argument, one at least.
    fn all_keys(&mut self, name: &'static str, keys: &mut Vec<Self::Argument>) -> Result<(), SyntaxError>;

    /// A value as text, if `fits` says so; `takes` describes what does.
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

    /// Values behind their number.
    fn values<T: Value>(
        &mut self,
        count: &'static str,
        name: &'static str,
        values: &mut Vec<T>,
    ) -> Result<(), SyntaxError>;

    /// Values up to the last argument, `max` at most; there may be none.
    fn all_values<T: Value>(&mut self, name: &'static str, max: usize, values: &mut Vec<T>) -> Result<(), SyntaxError>;

    /// A word that has to stand here.
    fn word(&mut self, word: &'static str) -> Result<(), SyntaxError>;
}

/// Reads arguments one after the other.
pub(crate) struct Reader<G> {
    count: usize,
    get: G,
    next: usize,
    /// Places of all keys so far.
    keys: Vec<usize>,
}

impl<'a, G: Fn(usize) -> &'a [u8]> Reader<G> {
    /// Begins behind the command's name.
    pub(crate) fn new(count: usize, get: G) -> Reader<G> {
        Reader { count, get, next: 1, keys: Vec::new() }
    }

    /// Refuses arguments that nothing has read.
    pub(crate) fn end(&self) -> Result<(), SyntaxError> {
        match self.left() {
            0 => Ok(()),
            left => Err(SyntaxError(format!("{left} of the arguments are too many"))),
        }
    }

    /// Places of all keys that were read.
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
                _ => SyntaxError(format!("there are fewer than {count} of `{name}`")),
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
        std::str::from_utf8((self.get)(place)).map_err(|_| SyntaxError(format!("`{name}` is not text")))
    }

    fn some_values<T: Value>(&mut self, count: usize, name: &'static str) -> Result<Vec<T>, SyntaxError> {
        // Nothing is allocated for values that are not there, however many are said to be.
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

    /// An access list is held against the keys that the server finds, by the same number. Where the server cannot read
    /// one, or reads zero, it finds no keys of the whole command and lets it pass.
    fn keys(&mut self, count: &'static str, name: &'static str, keys: &mut Vec<usize>) -> Result<(), SyntaxError> {
        let place = self.place(count)?;
        let number = key_count((self.get)(place)).ok_or_else(|| {
            SyntaxError(format!("`{count}` is not a number from 1 to {KEYS_MAX} without sign and leading zeros"))
        })?;
        self.key_places(number, name, keys)
    }

    fn all_keys(&mut self, name: &'static str, keys: &mut Vec<usize>) -> Result<(), SyntaxError> {
        match self.left() {
            0 => Err(SyntaxError(format!("`{name}` is missing"))),
            left if left > KEYS_MAX => Err(SyntaxError(format!("{left} keys are more than {KEYS_MAX}"))),
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
            return Err(SyntaxError(format!("{left} of `{name}` are more than {max}")));
        }
        *values = self.some_values(left, name)?;
        Ok(())
    }

    fn word(&mut self, word: &'static str) -> Result<(), SyntaxError> {
        let text = self.text(word)?;
        if text.eq_ignore_ascii_case(word) { Ok(()) } else { Err(SyntaxError(format!("`{word}` is expected"))) }
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

//! A small JSON reader that pulls values out of a stream: as much as headers of model files need.
//!
//! It keeps nothing: the caller takes strings and whole numbers as they come and skips the rest. Depth is at most
//! [`DEPTH_MAX`], a string is cut at [`NAME_BYTES_MAX`] bytes. What is not JSON ends the reading with `None`; some
//! things that JSON forbids pass (control characters in strings, leading zeros), as here nothing hangs on them.

use super::input::Stream;
use super::layout::NAME_BYTES_MAX;

/// Values may be nested so deep.
const DEPTH_MAX: usize = 16;

/// Pulls values from a stream.
pub(super) struct Json<'a> {
    stream: Stream<'a>,
    depth: usize,
}

impl<'a> Json<'a> {
    pub fn new(stream: Stream<'a>) -> Self {
        Self { stream, depth: 0 }
    }

    /// The next byte that is not white space; it stays the next.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.stream.peek()?, b' ' | b'\t' | b'\r' | b'\n') {
            self.stream.byte()?;
        }
        self.stream.peek()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then_some(())?;
        self.stream.byte().map(drop)
    }

    /// The members of a list between two brackets; `member` reads one.
    fn list(&mut self, [open, close]: [u8; 2], mut member: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.expect(open)?;
        if self.depth == DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        if self.peek()? != close {
            member(self)?;
            while self.peek()? == b',' {
                self.expect(b',')?;
                member(self)?;
            }
        }
        self.depth -= 1;
        self.expect(close)
    }

    /// An object: `member` gets each key and must read or skip its value.
    pub fn object(&mut self, mut member: impl FnMut(&mut Self, &str) -> Option<()>) -> Option<()> {
        self.list(*b"{}", |json| {
            let key = json.string()?;
            json.expect(b':')?;
            member(json, &key)
        })
    }

    /// An array: `element` must read or skip each.
    pub fn array(&mut self, element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.list(*b"[]", element)
    }

    /// A whole number from 0 that fits 64 bits.
    pub fn number(&mut self) -> Option<u64> {
        let mut value = digit(self.peek()?)?;
        self.stream.byte()?;
        while let Some(next) = self.stream.peek().and_then(digit) {
            value = value.checked_mul(10)?.checked_add(next)?;
            self.stream.byte()?;
        }
        let fraction = matches!(self.stream.peek(), Some(b'.' | b'e' | b'E'));
        (!fraction).then_some(value)
    }

    pub fn string(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let mut bytes = Vec::new();
        loop {
            let byte = match self.stream.byte()? {
                b'"' => break,
                b'\\' => match self.stream.byte()? {
                    b'u' => {
                        let text = self.escaped()?.to_string();
                        keep(&mut bytes, text.as_bytes());
                        continue;
                    }
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'b' => 8,
                    b'f' => 12,
                    other @ (b'"' | b'\\' | b'/') => other,
                    _ => return None,
                },
                byte => byte,
            };
            keep(&mut bytes, &[byte]);
        }
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What follows `\u`; the second half of a pair too. A half without the other is replaced.
    fn escaped(&mut self) -> Option<char> {
        let mut unit = self.hexadecimal()?;
        if (0xd800..0xdc00).contains(&unit) && self.stream.peek()? == b'\\' {
            self.stream.byte()?;
            (self.stream.byte()? == b'u').then_some(())?;
            let low = self.hexadecimal()?;
            unit = 0x10000 + ((unit - 0xd800) << 10) + low.checked_sub(0xdc00).filter(|&low| low < 0x400)?;
        }
        Some(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hexadecimal(&mut self) -> Option<u32> {
        let digits: [u8; 4] = self.stream.array()?;
        digits.iter().try_fold(0, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
    }

    /// Any value, not kept.
    pub fn skip(&mut self) -> Option<()> {
        match self.peek()? {
            b'{' => self.object(|json, _| json.skip()),
            b'[' => self.array(Self::skip),
            b'"' => self.string().map(drop),
            _ => {
                let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
                word(self.stream.byte()?).then_some(())?;
                while self.stream.peek().is_some_and(word) {
                    self.stream.byte()?;
                }
                Some(())
            }
        }
    }
}

fn digit(byte: u8) -> Option<u64> {
    byte.is_ascii_digit().then(|| u64::from(byte - b'0'))
}

fn keep(bytes: &mut Vec<u8>, more: &[u8]) {
    if bytes.len() + more.len() <= NAME_BYTES_MAX {
        bytes.extend_from_slice(more);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::input::Input;
    use super::*;

    fn with<T>(text: &str, read: impl Fn(&mut Json) -> T) -> T {
        let bytes = text.as_bytes();
        let allowance = Cell::new(1 << 30);
        let stream = Input::new(&bytes, &allowance).stream(0..bytes.len() as u64).unwrap();
        read(&mut Json::new(stream))
    }

    #[test]
    fn strings() {
        for (text, string) in [
            (r#" "a b" "#, Some("a b")),
            (r#""\"\\\/\n\u00e9\ud83d\ude00""#, Some("\"\\/\n\u{e9}\u{1f600}")),
            (r#""\ud83dx""#, Some("\u{fffd}x")),
            (r#""\ud83d\u0041""#, None),
            (r#""\q""#, None),
            (r#""open"#, None),
            ("12", None),
        ] {
            assert_eq!(with(text, |json| json.string()).as_deref(), string, "{text}");
        }
        let long = format!("\"{}\"", "x".repeat(1 << 20));
        assert_eq!(with(&long, |json| json.string()).unwrap().len(), NAME_BYTES_MAX);
    }

    #[test]
    fn numbers() {
        for (text, number) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-1", None),
            ("1.5", None),
            ("1e3", None),
            ("[", None),
        ] {
            assert_eq!(with(text, |json| json.number()), number, "{text}");
        }
    }

    #[test]
    fn values_are_skipped() {
        for (text, passes) in [
            (r#"{"a": [1, -2.5e3, null, true], "b": {}, "c": [], "d": "x"}"#, true),
            ("[1 2]", false),
            ("[1,]", false),
            (r#"{"a" 1}"#, false),
            (r#"{"a": }"#, false),
            ("", false),
            (&"[".repeat(100_000), false),
            (&format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX)), true),
            (&format!("{}{}", "[".repeat(DEPTH_MAX + 1), "]".repeat(DEPTH_MAX + 1)), false),
        ] {
            assert_eq!(with(text, |json| json.skip()).is_some(), passes, "{text:.80}");
        }
    }
}

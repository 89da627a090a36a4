//! SHA-256 of whole files that a list beside them tells: Megatron's `integrity.json`, which names each file of an
//! `iter_0000100` directory. A file that is not what the list says was damaged, or written over, before it was read.
//!
//! The sum goes with the bytes as they are read. Where these come out of order, the file is read once more
//! ([`Sum::of_file`]).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use crate::stages::read::{open_again, read_at};
use crate::units::MIB;

/// The name of the list.
pub(crate) const LIST: &str = "integrity.json";
/// A longer list is not read, in bytes.
const LIST_BYTES_MAX: u64 = 16 * MIB as u64;
/// What is fed at once of a hole, and read at once of a file, in bytes.
const PIECE_BYTES: usize = MIB;

type Digest = [u8; SHA256_OUTPUT_LEN];
type List = HashMap<String, Digest>;

/// The list of the directory that was asked for last.
#[derive(Default)]
pub(crate) struct Sums {
    last: Mutex<Option<(PathBuf, Option<Arc<List>>)>>,
}

impl Sums {
    /// What the file at this path must be, if a list beside it tells.
    pub(crate) fn expected(&self, path: &Path) -> Option<Digest> {
        let directory = path.parent().filter(|directory| is_iteration(directory))?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(known, _)| known != directory) {
            *last = Some((directory.to_path_buf(), read_list(directory).map(Arc::new)));
        }
        let list = last.as_ref().and_then(|(_, list)| list.clone())?;
        drop(last);
        list.get(path.file_name()?.to_str()?).copied()
    }
}

/// Megatron's directory of one checkpoint: `iter_` and seven digits or more.
fn is_iteration(directory: &Path) -> bool {
    let name = directory.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let digits = name.strip_prefix("iter_").unwrap_or_default();
    digits.len() >= 7 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn read_list(directory: &Path) -> Option<List> {
    let mut text = Vec::new();
    open_again(&directory.join(LIST)).ok()?.take(LIST_BYTES_MAX + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= LIST_BYTES_MAX).then(|| parse(&text)).flatten()
}

/// The digests of a list; none where it is no list of SHA-256. What is no digest in it is left out.
fn parse(text: &[u8]) -> Option<List> {
    #[derive(serde::Deserialize)]
    struct Written {
        #[serde(default)]
        algorithm: Option<String>,
        files: HashMap<String, String>,
    }
    let written: Written = serde_json::from_slice(text).ok()?;
    if written.algorithm.is_some_and(|algorithm| algorithm != "sha256") {
        return None;
    }
    let digests = written.files.into_iter().filter_map(|(name, digits)| Some((name, digest(&digits)?)));
    Some(digests.collect())
}

fn digest(digits: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    let pairs = digits.as_bytes().as_chunks::<2>();
    if pairs.0.len() != digest.len() || !pairs.1.is_empty() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(pairs.0) {
        let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? << 4 | low?).ok()?;
    }
    Some(digest)
}

/// The sum of one file, as far as it was read.
pub(crate) struct Sum {
    expected: Digest,
    context: Context,
    next: u64,
    is_lost: bool,
}

impl Sum {
    /// To be held against this one.
    pub(crate) fn new(expected: Digest) -> Self {
        Self { expected, context: Context::new(&SHA256), next: 0, is_lost: false }
    }

    /// Goes on with the file's bytes at `offset`.
    pub(crate) fn update(&mut self, offset: u64, bytes: &[u8]) {
        self.is_lost |= offset != self.next;
        if !self.is_lost {
            self.context.update(bytes);
            self.next += bytes.len() as u64;
        }
    }

    /// A hole of `length` bytes follows.
    pub(crate) fn hole(&mut self, offset: u64, mut length: u64) {
        let zeros = vec![0; PIECE_BYTES];
        let mut at = offset;
        while length > 0 && !self.is_lost {
            let part = usize::try_from(length).unwrap_or(usize::MAX).min(zeros.len());
            self.update(at, &zeros[..part]);
            (at, length) = (at + part as u64, length - part as u64);
        }
    }

    /// Whether a file of `length` bytes is what it must be; none where its bytes did not come in order.
    pub(crate) fn verdict(self, length: u64) -> Option<bool> {
        let is_known = !self.is_lost && self.next == length;
        is_known.then(|| self.context.finish().as_ref() == self.expected)
    }

    /// Reads a whole file for it.
    pub(crate) fn of_file(file: &File, expected: Digest) -> io::Result<bool> {
        let (mut sum, mut buffer, mut at) = (Self::new(expected), vec![0; PIECE_BYTES], 0);
        loop {
            let read = read_at(file, at, &mut buffer)?;
            if read == 0 {
                return Ok(sum.verdict(at) == Some(true));
            }
            sum.update(at, &buffer[..read]);
            at += read as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of "abc", from FIPS 180-4's examples.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn lists_are_read_and_nothing_else_is() {
        let list = |text: String| parse(text.as_bytes()).map(|list| list.len());
        for (text, expected) in [
            (
                format!(r#"{{"algorithm": "sha256", "files": {{"a": "{ABC}", "b": "{}"}}}}"#, ABC.to_uppercase()),
                Some(2),
            ),
            (format!(r#"{{"files": {{"a": "{ABC}", "b": "12", "c": "{ABC}0", "d": "x{}"}}}}"#, &ABC[1..]), Some(1)),
            (format!(r#"{{"algorithm": "sha512", "files": {{"a": "{ABC}"}}}}"#), None),
            (r#"{"algorithm": "sha256"}"#.into(), None),
            (r#"{"files": {"a": 1}}"#.into(), None),
            (format!(r#"{{"files": {{"a": "{ABC}"}}"#), None),
        ] {
            assert_eq!(list(text.clone()), expected, "{text}");
        }
    }

    #[test]
    fn sums_go_with_the_bytes() {
        let expected = digest(ABC).unwrap();
        let sum = |pieces: &[(u64, &[u8])], length| {
            let mut sum = Sum::new(expected);
            pieces.iter().for_each(|(offset, bytes)| sum.update(*offset, bytes));
            sum.verdict(length)
        };
        assert_eq!(sum(&[(0, b"abc")], 3), Some(true));
        assert_eq!(sum(&[(0, b"a"), (1, b"bc")], 3), Some(true));
        assert_eq!(sum(&[(0, b"abd")], 3), Some(false));
        assert_eq!(sum(&[(0, b"a"), (2, b"c"), (1, b"b")], 3), None);
        assert_eq!(sum(&[(0, b"ab")], 3), None);
        let length = PIECE_BYTES as u64 + 5;
        let mut zeros = Context::new(&SHA256);
        zeros.update(&vec![0; length as usize]);
        let mut sum = Sum::new(zeros.finish().as_ref().try_into().unwrap());
        sum.hole(0, length);
        assert_eq!(sum.verdict(length), Some(true));
    }

    #[test]
    fn only_directories_of_iterations_are_asked() {
        let root = tempfile::tempdir().unwrap();
        let list = format!(r#"{{"algorithm": "sha256", "files": {{"a.pt": "{ABC}"}}}}"#);
        for (name, expected) in
            [("iter_0000100", true), ("iter_100", false), ("step_0000100", false), ("iter_000010x", false)]
        {
            let directory = root.path().join(name);
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join(LIST), &list).unwrap();
            let sums = Sums::default();
            assert_eq!(sums.expected(&directory.join("a.pt")), digest(ABC).filter(|_| expected), "{name}");
            assert_eq!(sums.expected(&directory.join("b.pt")), None);
        }
    }
}

//! Is a file whole? Some formats say so themselves: safetensors by a header that names the file's exact size, zip (torch,
//! npz) by the directory at its end, which is written last.
//!
//! This asks what a copy of the bytes would be worth, so unlike a layout it is strict: what can't be read is not whole.
//! It says nothing about the numbers; embedded checksums do ([`super::crc`]). Formats that do not tell give
//! [`Whole::Unknown`].

use std::cell::Cell;

use super::distcp;
use super::input::{Input, READ_BYTES_MAX, ReadAt};
use super::layout::{Builder, Format};
use super::{safetensors, zip};

/// What a file says of its own completeness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whole {
    /// It is exactly as long as its header says, or has its directory.
    Yes,
    /// It is not, and why.
    No(String),
    /// Its format does not tell.
    Unknown,
}

/// Looks at a file's header, or at its end. `name` is the file's own name, without folders.
#[must_use]
pub fn whole(file: &dyn ReadAt, name: &[u8]) -> Whole {
    if file.length() == 0 {
        return Whole::No("it is empty".to_owned());
    }
    let allowance = Cell::new(READ_BYTES_MAX);
    let input = Input::new(file, &allowance);
    let Some(head) = input.head::<512>() else { return Whole::No("it can't be read".to_owned()) };
    if zip::recognises(&head) {
        return whole_zips(&input);
    }
    if safetensors::recognises(&head) {
        return whole_safetensors(&input, name);
    }
    if name.ends_with(b".safetensors") {
        return Whole::No("it does not begin as a safetensors file does".to_owned());
    }
    // Why: a file system that lost the data of a file that it had grown gives zeros; no format that is met here does.
    if head.iter().all(|&byte| byte == 0) {
        return Whole::No("it begins with zeros".to_owned());
    }
    Whole::Unknown
}

/// One file, or in parts of distributed checkpoints several in a row.
fn whole_safetensors(input: &Input, name: &[u8]) -> Whole {
    let mut builder = Builder::new(Format::Safetensors, input.length());
    let mut end = 0;
    while end < input.length() {
        let piece = input.part(end..input.length());
        let Some(length) = piece.and_then(|piece| safetensors::read(&piece, &mut builder)) else {
            return Whole::No("its header can't be read".to_owned());
        };
        end = end.saturating_add(length);
        if !name.ends_with(b".distcp") {
            break;
        }
    }
    match end == input.length() {
        true => Whole::Yes,
        false => Whole::No(format!("its header says {end} bytes, it has {}", input.length())),
    }
}

fn whole_zips(input: &Input) -> Whole {
    let archives = distcp::archives(input);
    let reaches_start = archives.last().is_some_and(|archive| archive.range.start == 0);
    if !reaches_start {
        return Whole::No("it has no directory at its end: it is cut short, or still being written".to_owned());
    }
    match archives.iter().all(|archive| archive.entries(input).is_some()) {
        true => Whole::Yes,
        false => Whole::No("the directory at its end can't be read".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/readers");
        std::fs::read(folder.join(name)).unwrap()
    }

    #[test]
    fn files_of_other_libraries_are_whole_and_no_beginning_of_them_is() {
        for name in ["model.safetensors", "safetensors.distcp", "model.pt", "big.pt", "__0_0.distcp", "arrays.npz"] {
            let bytes = fixture(name);
            assert_eq!(whole(&&bytes[..], name.as_bytes()), Whole::Yes, "{name}");
            for length in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
                let said = whole(&&bytes[..length], name.as_bytes());
                // Why: a row of archives may end after one of them; what it lacks then only `.metadata` knows.
                let ends_between = name.ends_with(".distcp") && said == Whole::Yes;
                assert!(
                    ends_between || matches!(said, Whole::No(_) | Whole::Unknown),
                    "{name} cut at {length}: {said:?}"
                );
                assert!(length < 9 || said != Whole::Unknown, "{name} cut at {length}");
            }
        }
    }

    #[test]
    fn longer_than_the_header_says_is_not_whole_either() {
        let mut bytes = fixture("model.safetensors");
        bytes.push(0);
        assert!(matches!(whole(&&bytes[..], b"model.safetensors"), Whole::No(_)));
    }

    #[test]
    fn others_do_not_tell() {
        for (name, bytes, said) in [
            ("legacy.pt", &b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."[..], Whole::Unknown),
            ("zeros.pt", &[0; 4096], Whole::No("it begins with zeros".into())),
            ("empty.bin", b"", Whole::No("it is empty".into())),
            ("x.safetensors", b"text", Whole::No("it does not begin as a safetensors file does".into())),
        ] {
            assert_eq!(whole(&bytes, name.as_bytes()), said, "{name}");
        }
    }
}

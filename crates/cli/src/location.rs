//! Where a repository is: the text after `-r`, turned into the path of a local directory.
//!
//! A plain path and `file:///path` are understood. Anything with a colon before its first slash looks like a remote
//! store and is refused instead of becoming a strangely named directory; `./name:with:colons` still means a directory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use seawall_engine::error::{Error, Result};

/// Reads a repository location into an absolute path (nothing is resolved, nothing needs to exist).
///
/// # Errors
/// [`Error::Unsupported`] for stores other than local directories; [`Error::Usage`] for malformed locations.
pub fn parse(text: &OsStr) -> Result<PathBuf> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(Error::Usage("the repository's location is empty".to_owned()));
    }
    let path = match bytes.strip_prefix(b"file://") {
        Some(rest) => from_file_url(text, rest)?,
        None if looks_remote(bytes) => {
            return Err(Error::Unsupported(format!(
                "{}: stores other than local directories come later (a directory of that name is written ./{0})",
                text.to_string_lossy()
            )));
        }
        None => PathBuf::from(text),
    };
    std::path::absolute(&path).map_err(|error| Error::file(path, "cannot make this path absolute", error))
}

fn looks_remote(bytes: &[u8]) -> bool {
    let head = bytes.split(|&byte| byte == b'/').next().unwrap_or_default();
    head.contains(&b':')
}

fn from_file_url(whole: &OsStr, rest: &[u8]) -> Result<PathBuf> {
    let refused = |why: &str| Error::Usage(format!("{}: {why}", whole.to_string_lossy()));
    if rest.first() != Some(&b'/') {
        return Err(refused("write file:/// and an absolute path, without a host name"));
    }
    let mut path = Vec::with_capacity(rest.len());
    let mut bytes = rest.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            path.push(byte);
            continue;
        }
        let digits = [bytes.next(), bytes.next()].map(|digit| digit.and_then(|&digit| char::from(digit).to_digit(16)));
        match digits {
            [Some(high), Some(low)] if high * 16 + low != 0 => path.push((high * 16 + low) as u8),
            _ => return Err(refused("a % in a file:// location begins two hexadecimal digits; write %25 for itself")),
        }
    }
    Ok(PathBuf::from(OsString::from_vec(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_locations_become_absolute_paths() {
        for (text, expected) in [
            ("/backup/x", "/backup/x"),
            ("file:///backup/x", "/backup/x"),
            ("file:///backup/a%20b%25", "/backup/a b%"),
            ("/backup/web:1", "/backup/web:1"),
        ] {
            assert_eq!(parse(OsStr::new(text)).unwrap(), PathBuf::from(expected), "{text}");
        }
        let here = std::env::current_dir().unwrap();
        assert_eq!(parse(OsStr::new("x/y")).unwrap(), here.join("x/y"));
        assert_eq!(parse(OsStr::new("./s3:x")).unwrap(), here.join("s3:x"));
    }

    #[test]
    fn other_stores_and_malformed_locations_are_refused() {
        for text in ["s3://bucket/x", "sftp:host:/x", "user@host:/x", "http://h/x", "C:/x"] {
            let error = parse(OsStr::new(text)).unwrap_err();
            assert_eq!(error.code(), "unsupported", "{text}");
            assert!(error.to_string().contains("local directories"), "{error}");
        }
        for text in ["", "file://host/x", "file:///x%2", "file:///x%zz", "file:///x%00"] {
            assert_eq!(parse(OsStr::new(text)).unwrap_err().code(), "usage", "{text}");
        }
    }
}

//! The recovery kit: one text file that, with the repository, is enough to get everything back.
//!
//! It is itself a key file (docs/format.md §4: two lines, then comments), so it opens the repository as it is, without
//! copying digits. The rest says what to keep where and the exact steps of a recovery, with this program and without.

use std::path::Path;

use seawall_engine::clock::Timestamp;
use seawall_engine::crypto::Secret32;
use seawall_engine::format::slot;
use seawall_engine::ids::{ObjectHash, RepositoryId};
use zeroize::Zeroizing;

use crate::moments;

/// What a kit tells.
pub struct Kit<'k> {
    /// Which repository.
    pub repository: RepositoryId,
    /// What tells it from every other.
    pub fingerprint: ObjectHash,
    /// Where it lies now.
    pub location: &'k Path,
    /// On which machine.
    pub host: &'k str,
    /// When the kit was made.
    pub made: Timestamp,
    /// The key.
    pub key: &'k Secret32,
}

impl Kit<'_> {
    /// The kit as a text file.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let body = self.body();
        let key = slot::key_file_text(self.key);
        // Why so much room: a text that grows leaves copies of the key behind.
        let mut text = Zeroizing::new(String::with_capacity(key.len() + 2 * body.len()));
        text.push_str(&key);
        for line in body.lines() {
            text.push_str(if line.is_empty() { "#" } else { "# " });
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    fn body(&self) -> String {
        let location = self.location.display().to_string().replace(char::is_control, "?");
        let (repository, fingerprint, host) = (self.repository, self.fingerprint, self.host);
        let (made, shown) = (moments::rfc3339(self.made), shell_quoted(&location));
        format!(
            "
SEAWALL RECOVERY KIT

Whoever has this file and the repository can read everything that is in it.
Without this file, a copy of its first two lines or another key, nobody can, not even you.

    repository   {repository}
    fingerprint  {fingerprint}
    location     {location}
    machine      {host}
    made         {made}

WHAT TO STORE, AND WHERE
 1. This file: printed, or on a medium that does not depend on the machine above. A password manager or a safe
    will do. Not inside what it protects.
 2. A copy of the repository away from this machine: copy the directory named above as it is, with any tool.
 3. The seawall binary, or the directory tools/ of its source: a few hundred lines of Python that read the same format.

WHAT ELSE OPENS THE REPOSITORY
 `seawall key list` shows it. This kit stays good when keys are added or the data key is renewed (`key rotate`), until its
 own key is removed. If this file alone is too much power in one place: `seawall key add --shares 3-of-5` hands out
 shares, of which any three open the repository; then remove this key.

IS IT THE RIGHT REPOSITORY?
 With the fingerprint above, no command opens another repository than this one. It matters most where somebody else
 keeps the copy:
        export SEAWALL_EXPECT={fingerprint}
 Whether the copy is the newest it does not tell: look at the time of the newest snapshot.

TO RECOVER WITH SEAWALL
 1. Bring the repository and this file to any Linux machine. If the repository lies elsewhere there, put that place
    after -r. This file is the key file; save it as seawall-kit.txt.
 2. See what there is:
        seawall -r {shown} --key-file seawall-kit.txt snapshots
 3. Check it, reading every stored byte (optional):
        seawall -r {shown} --key-file seawall-kit.txt verify --read-data
 4. Restore the newest snapshot (as root, to get owners and devices back):
        seawall -r {shown} --key-file seawall-kit.txt restore latest --target /recovered

TO RECOVER WITHOUT SEAWALL
 1. On a machine with Python 3:
        python3 -m venv rescue && rescue/bin/pip install -r tools/requirements.txt
 2. See what there is, then restore:
        rescue/bin/python tools/rescue.py -r {shown} --key-file seawall-kit.txt snapshots
        rescue/bin/python tools/rescue.py -r {shown} --key-file seawall-kit.txt restore latest --target /recovered
 docs/format.md of the source describes every stored byte.
"
        )
    }
}

/// A path as a POSIX shell takes it.
#[must_use]
pub fn shell_quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kit_is_a_key_file_and_names_everything() {
        let key = Secret32::random();
        let kit = Kit {
            repository: RepositoryId([7; 16]),
            fingerprint: ObjectHash([0xAB; 32]),
            location: Path::new("/backup/it's here\n"),
            host: "web1",
            made: Timestamp { seconds: 1_795_000_000, nanos: 0 },
            key: &key,
        };
        let text = kit.text();
        assert_eq!(slot::parse_key_file(&text).unwrap().as_bytes(), key.as_bytes());
        assert!(text.lines().skip(2).all(|line| line.starts_with('#')), "{}", *text);
        for part in [
            "07070707070707070707070707070707",
            &"ab".repeat(32),
            "web1",
            "2026-11-",
            r"-r '/backup/it'\''s here?'",
            "rescue.py",
        ] {
            assert!(text.contains(part), "{part} is not in\n{}", *text);
        }
    }
}

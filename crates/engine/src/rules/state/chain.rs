//! How stored bytes are taken as entries of the log (docs/format.md §8): what stops a reader, what is void, and which
//! hash the next entry has to name.
//!
//! Whoever has the log key can seal anything under the next number. Only what a member signed who may still sign is a
//! reason not to go on; all else is void. What this program can't understand stops it where an owner signed it: it is of
//! a later version, and may say that something is gone. From anybody else it is void: a later version may let others
//! write new acts only after an owner's entry, at which this program stops.
//!
//! Invariant: the head commits to everything before it. An entry that follows names the head before it, and its own hash
//! does the rest; past one that does not, the head before is mixed in. Else a store that shows a different past could
//! hide behind one void entry and go on with the true continuation.

use crate::crypto::object_hash;
use crate::error::{Damaged, Error, Result};
use crate::format::log::{Opened, OpenedEntry};
use crate::format::names::log_object;
use crate::format::slot::Role;
use crate::ids::ObjectHash;
use crate::rules::State;

const VOID_DOMAIN: &[u8] = b"seawall v1 void ";

impl State {
    /// Takes what lies at the next number, whose stored bytes have `hash`. `is_signed_by` tells whether the entry was
    /// signed with the secret key of this public key. Gives the reason where it is void.
    ///
    /// # Errors
    /// [`Error::Damaged`] where entry 0 does not begin the log; [`Error::Unsupported`] where an owner signed what this
    /// program does not understand. Then the state is as before.
    pub fn take(
        &mut self,
        opened: &Opened,
        hash: ObjectHash,
        is_signed_by: impl FnOnce(&OpenedEntry, &[u8; 32]) -> bool,
    ) -> Result<Option<String>> {
        let chained = self.chained(opened);
        if self.next == 0 {
            return self.begin(chained, hash, is_signed_by).map(|()| None);
        }
        let (head, why) = match chained {
            Err(why) => (self.head_past(hash), why),
            Ok(opened) => match &opened.act {
                Ok(act) => {
                    let entry = opened.frame.with_act(act);
                    return Ok(self.apply(&entry, hash, |key| is_signed_by(opened, key)).err());
                }
                Err(what) => (hash, self.not_understood(opened, what, |key| is_signed_by(opened, key))?),
            },
        };
        self.advance(head, Some(&why));
        Ok(Some(why))
    }

    /// The entry, if it follows what is there; else why it does not.
    fn chained<'o>(&self, opened: &'o Opened) -> Result<&'o OpenedEntry, String> {
        match opened {
            Opened::Malformed(why) => Err(why.clone()),
            Opened::Entry(entry) if entry.frame.repository != self.repository => {
                Err("it is an entry of another repository".to_owned())
            }
            Opened::Entry(entry) if entry.frame.previous != self.head => {
                Err("it does not follow the entry before it".to_owned())
            }
            Opened::Entry(entry) => Ok(entry),
        }
    }

    /// Entry 0, without which nobody is known who could sign.
    fn begin(
        &mut self,
        chained: Result<&OpenedEntry, String>,
        hash: ObjectHash,
        is_signed_by: impl FnOnce(&OpenedEntry, &[u8; 32]) -> bool,
    ) -> Result<()> {
        let damaged = |why: String| Error::from(Damaged::new(log_object(0), 0, why));
        let opened = chained.map_err(damaged)?;
        let entry = opened.frame.with_act(opened.act.as_ref().map_err(|what| damaged(format!("it holds {what}")))?);
        let mut begun = self.clone();
        begun.apply(&entry, hash, |key| is_signed_by(opened, key)).map_err(damaged)?;
        begun.fingerprint = Some(hash);
        *self = begun;
        Ok(())
    }

    /// Why an entry is void that this program does not understand: `what` it is.
    fn not_understood(
        &self,
        opened: &OpenedEntry,
        what: &str,
        is_signed_by: impl FnOnce(&[u8; 32]) -> bool,
    ) -> Result<String> {
        match self.signer(&opened.frame.member, is_signed_by) {
            Ok(Role::Owner) => {
                let object = log_object(self.next);
                Err(Error::Unsupported(format!("{object} holds {what}, which needs a newer version of this program")))
            }
            Ok(_) => Ok(format!("{what}, which only an owner may write")),
            Err(why) => Ok(why.to_owned()),
        }
    }

    /// The head past bytes that do not name the head before them.
    fn head_past(&self, hash: ObjectHash) -> ObjectHash {
        let before = self.head.as_ref().map_or(&[][..], |head| head.as_bytes());
        object_hash(&[VOID_DOMAIN, before, hash.as_bytes()].concat())
    }
}

#[cfg(test)]
mod tests;

//! Object names (docs/format.md §1): made here, read here, nowhere else.
//!
//! A name that is read must be written exactly as it would be made, so that every object has one name.

use std::fmt;

use crate::ids::{SessionId, SlotId};

/// Name of the marker.
pub const MARKER: &str = "seawall";
/// What the names of all key slots begin with.
pub const SLOTS: &str = "key/";
/// What the names of all session records begin with.
pub const SESSIONS: &str = "session/";
/// What the names of all packs begin with.
pub const PACKS: &str = "pack/";
/// What the names of all segments begin with.
pub const SEGMENTS: &str = "index/";
/// What the names of all log entries begin with.
pub const LOG: &str = "log/";

/// Counters have 10 digits, so none is greater.
pub const COUNTER_MAX: u64 = 9_999_999_999;

macro_rules! counted {
    ($(#[$doc:meta])* $name:ident, $prefix:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            /// The session that wrote it.
            pub session: SessionId,
            /// Counts from 0 in the session, at most [`COUNTER_MAX`].
            pub counter: u64,
        }

        impl $name {
            /// The object's name.
            #[must_use]
            pub fn object(&self) -> String {
                format!("{}{}/{:010}", $prefix, self.session, self.counter)
            }

            /// Reads an object's name; `None` where it is not one of these.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                let (session, counter) = name.strip_prefix($prefix)?.split_once('/')?;
                Some(Self { session: parse_session_id(session)?, counter: parse_digits(counter, 10)? })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.object())
            }
        }
    };
}

counted!(
    /// A pack's name.
    PackName, PACKS
);
counted!(
    /// An index segment's name.
    SegmentName, SEGMENTS
);

impl PackName {
    /// The name under which the pack's footer is sealed.
    pub(crate) fn footer(&self) -> String {
        format!("{}#footer", self.object())
    }
}

/// Name of a key slot.
#[must_use]
pub fn slot_object(slot: &SlotId) -> String {
    format!("{SLOTS}{slot}")
}

/// Reads the name of a key slot.
#[must_use]
pub fn parse_slot(name: &str) -> Option<SlotId> {
    let text = name.strip_prefix(SLOTS)?;
    lower_hex(text).then(|| SlotId::from_hex(text).ok())?
}

/// Name of a session's data key, wrapped for one generation of the data key pair.
#[must_use]
pub fn session_object(session: &SessionId, generation: u32) -> String {
    format!("{SESSIONS}{session}/{generation:010}")
}

/// Reads the name of a session record.
#[must_use]
pub fn parse_session(name: &str) -> Option<(SessionId, u32)> {
    let (session, generation) = name.strip_prefix(SESSIONS)?.split_once('/')?;
    Some((parse_session_id(session)?, u32::try_from(parse_digits(generation, 10)?).ok()?))
}

/// Name of log entry `number`.
#[must_use]
pub fn log_object(number: u64) -> String {
    format!("{LOG}{number:020}")
}

/// Reads the number in the name of a log entry.
#[must_use]
pub fn parse_log(name: &str) -> Option<u64> {
    parse_digits(name.strip_prefix(LOG)?, 20)
}

fn parse_session_id(text: &str) -> Option<SessionId> {
    lower_hex(text).then(|| SessionId::from_hex(text).ok())?
}

fn lower_hex(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn parse_digits(text: &str, digits: usize) -> Option<u64> {
    (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId([0xab; 16]);
    const HEX: &str = "abababababababababababababababab";

    #[test]
    fn names_are_as_the_page_says() {
        assert_eq!(PackName { session: SESSION, counter: 7 }.object(), format!("pack/{HEX}/0000000007"));
        assert_eq!(SegmentName { session: SESSION, counter: 0 }.object(), format!("index/{HEX}/0000000000"));
        assert_eq!(slot_object(&SlotId([0xab; 16])), format!("key/{HEX}"));
        assert_eq!(session_object(&SESSION, 3), format!("session/{HEX}/0000000003"));
        assert_eq!(log_object(12), "log/00000000000000000012");
    }

    #[test]
    fn names_are_read_back() {
        for counter in [0, 1, COUNTER_MAX] {
            let pack = PackName { session: SESSION, counter };
            assert_eq!(PackName::parse(&pack.object()), Some(pack));
            let segment = SegmentName { session: SESSION, counter };
            assert_eq!(SegmentName::parse(&segment.object()), Some(segment));
            assert_eq!(PackName::parse(&segment.object()), None);
        }
        assert_eq!(parse_slot(&slot_object(&SlotId([9; 16]))), Some(SlotId([9; 16])));
        assert_eq!(parse_session(&session_object(&SESSION, u32::MAX)), Some((SESSION, u32::MAX)));
        assert_eq!(parse_log(&log_object(u64::MAX)), Some(u64::MAX));
    }

    #[test]
    fn other_spellings_are_refused() {
        let upper = HEX.to_uppercase();
        for name in [
            format!("pack/{HEX}/7"),
            format!("pack/{HEX}/00000000007"),
            format!("pack/{HEX}/+000000007"),
            format!("pack/{upper}/0000000007"),
            format!("pack/{HEX}0000000007"),
            format!("pack/{HEX}/0000000007/"),
            format!("packs/{HEX}/0000000007"),
            String::new(),
        ] {
            assert_eq!(PackName::parse(&name), None, "{name}");
        }
        assert_eq!(parse_log("log/99999999999999999999"), None);
        assert_eq!(parse_session(&format!("session/{HEX}/9999999999")), None);
        assert_eq!(parse_slot(&format!("key/{upper}")), None);
    }
}

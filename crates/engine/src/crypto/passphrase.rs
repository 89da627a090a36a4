//! Keys from passphrases: Argon2id version 0x13 (RFC 9106). The cost is stored in the slot, so it may rise later; a
//! cost that a hostile store chose is refused before anything is allocated.

use argon2::{Algorithm, Argon2, Params, Version};

use super::Secret32;
use crate::error::Error;

const MEMORY_KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 64;

/// What guessing one passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes (computed one after the other here).
    pub lanes: u32,
}

impl Cost {
    /// The second recommended option of RFC 9106 §4 (64 MiB, 3 passes, 4 lanes), which is far above OWASP's minimum of
    /// 19 MiB and 2 passes. Why not the first option: its 2 GiB would keep small machines from recovering anything.
    pub const DEFAULT: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

    fn check(self) -> Result<Params, Error> {
        let refused = || {
            let Self { memory_kib, passes, lanes } = self;
            Error::Unsupported(format!(
                "a passphrase cost of {memory_kib} KiB, {passes} passes and {lanes} lanes is refused"
            ))
        };
        if self.memory_kib > MEMORY_KIB_MAX || self.passes > PASSES_MAX || self.lanes > LANES_MAX {
            return Err(refused());
        }
        Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(|_| refused())
    }
}

/// Derives a key from a passphrase. Takes `cost.memory_kib` of memory while it runs.
///
/// # Errors
/// [`Error::Unsupported`] for a cost over 1 GiB, 64 passes or 64 lanes, or one that Argon2 does not define.
pub fn derive(passphrase: &[u8], salt: &[u8; 16], cost: Cost) -> Result<Secret32, Error> {
    let params = cost.check()?;
    let mut key = Secret32([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, &mut key.0)
        .map_err(|error| Error::Usage(format!("the passphrase can't be used: {error}")))?;
    Ok(key)
}

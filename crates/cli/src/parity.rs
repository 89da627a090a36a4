//! How much parity new packs get: `--parity` and SEAWALL_PARITY.
//!
//! The option of a command wins over the variable, also where it says 0. What is given is checked before anything is
//! written; the engine turns the share into groups of shards.

use std::ffi::OsStr;

use seawall_engine::error::{Error, Result};
use seawall_engine::format::parity::Parity;
use seawall_engine::repo::Repository;

use crate::quantities::parse_share;

/// The parity that new packs get, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted(Option<Parity>);

/// What commands that store data take.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "How it is stored")]
pub struct ParityArguments {
    /// Add so much parity to each new pack, 1% to 50%, so that damaged pieces of it can be computed again; 0 for none
    /// [SEAWALL_PARITY]
    #[arg(long, value_name = "SHARE", value_parser = parse)]
    pub parity: Option<Wanted>,
}

impl ParityArguments {
    /// The repository, so that what it writes has the parity that was asked for here, or else in the environment.
    #[must_use]
    pub fn apply(self, repository: Repository) -> Repository {
        match self.parity {
            Some(Wanted(parity)) => repository.with_parity(parity),
            None => repository,
        }
    }
}

fn parse(text: &str) -> std::result::Result<Wanted, String> {
    if matches!(text.trim().trim_end_matches('%'), "0" | "0.0") {
        return Ok(Wanted(None));
    }
    let parity = Parity::of_share(parse_share(text)?);
    parity.map(|parity| Wanted(Some(parity))).ok_or_else(|| format!("{text:?}: parity is 1% to 50% of a pack, or 0"))
}

/// The parity that SEAWALL_PARITY asks for.
///
/// # Errors
/// [`Error::Usage`] where it is no such share.
pub fn from_environment(text: Option<&OsStr>) -> Result<Option<Parity>> {
    let Some(text) = text else { return Ok(None) };
    let Wanted(parity) =
        parse(&text.to_string_lossy()).map_err(|why| Error::Usage(format!("SEAWALL_PARITY: {why}")))?;
    Ok(parity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_none() {
        for (text, share) in [("2%", 0.02), ("0.02", 0.02), (" 10 %", 0.1), ("50%", 0.5)] {
            assert_eq!(parse(text), Ok(Wanted(Parity::of_share(share))), "{text}");
        }
        for text in ["0", "0%", "0.0"] {
            assert_eq!(parse(text), Ok(Wanted(None)), "{text}");
        }
        for text in ["", "2", "60%", "0.1%", "-1%", "many"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(from_environment(None).unwrap(), None);
        assert_eq!(from_environment(Some(OsStr::new("2%"))).unwrap(), Parity::of_share(0.02));
        let refused = from_environment(Some(OsStr::new("90%"))).unwrap_err();
        assert!(refused.to_string().contains("SEAWALL_PARITY"), "{refused}");
    }
}

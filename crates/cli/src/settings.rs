//! The global options, checked: command line first, then environment, then defaults.
//!
//! A way in that is named on the command line shuts out all that the environment names, so that a run does what its
//! command line says. Several named ways are tried in turn when opening; `init` makes a slot for each.

use std::path::PathBuf;
use std::thread::available_parallelism;

use seawall_engine::error::{Error, Result};
use seawall_engine::format::parity::Parity;
use seawall_engine::ids::ObjectHash;
use seawall_engine::units::MIB;

use crate::arguments::GlobalArguments;
use crate::environment::Environment;
use crate::keys::KeySource;
use crate::{location, parity};

const MEMORY_MIN: u64 = 32 * MIB as u64;

/// What the commands need of the global options.
pub struct Settings {
    /// Where the repository is, if somebody named one.
    pub repository: Option<PathBuf>,
    /// The ways in that somebody named, in the order to try them.
    pub keys: Vec<KeySource>,
    /// The fingerprint that the repository must have, if one is known.
    pub expected: Option<ObjectHash>,
    /// Where caches lie; `None` for none.
    pub cache: Option<PathBuf>,
    /// Threads that compute.
    pub threads: usize,
    /// Bytes in flight at most.
    pub budget_bytes: usize,
    /// Parity of new packs, unless a command says otherwise.
    pub parity: Option<Parity>,
}

impl Settings {
    /// Checks the global options.
    ///
    /// # Errors
    /// [`Error::Usage`] or [`Error::Unsupported`] for what can't be meant.
    pub fn check(arguments: &GlobalArguments, environment: &Environment) -> Result<Self> {
        let repository = arguments.repository.as_ref().or(environment.repository.as_ref());
        let cache = arguments.cache_dir.as_ref().or(environment.cache_directory.as_ref());
        if arguments.memory < MEMORY_MIN {
            return Err(Error::Usage(format!("--memory must be at least {} MiB", MEMORY_MIN >> 20)));
        }
        Ok(Self {
            repository: repository.map(|text| location::parse(text)).transpose()?,
            keys: keys(arguments, environment),
            expected: arguments.expect.as_deref().or(environment.expect.as_deref()).map(fingerprint).transpose()?,
            cache: if arguments.no_cache { None } else { cache.or(environment.cache.as_ref()).cloned() },
            threads: arguments.threads.map_or_else(|| available_parallelism().map_or(1, usize::from), usize::from),
            budget_bytes: usize::try_from(arguments.memory).unwrap_or(usize::MAX),
            parity: parity::from_environment(environment.parity.as_deref())?,
        })
    }
}

fn fingerprint(text: &str) -> Result<ObjectHash> {
    let wrong = |_| Error::Usage("--expect takes a repository's fingerprint: 64 hexadecimal digits".to_owned());
    ObjectHash::from_hex(text.trim()).map_err(wrong)
}

fn keys(arguments: &GlobalArguments, environment: &Environment) -> Vec<KeySource> {
    let named: Vec<KeySource> = [
        arguments.key_file.clone().map(KeySource::KeyFile),
        arguments.password_file.clone().map(KeySource::PasswordFile),
        arguments.password_command.clone().map(KeySource::PasswordCommand),
        arguments.identity_file.clone().map(KeySource::IdentityFile),
        shares(&arguments.share),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !named.is_empty() {
        return named;
    }
    [
        environment.key_file.clone().map(KeySource::KeyFile),
        environment.password_file.clone().map(KeySource::PasswordFile),
        environment.password_command.clone().map(KeySource::PasswordCommand),
        environment.password.clone().map(KeySource::Password),
        environment.identity_file.clone().map(KeySource::IdentityFile),
        shares(&environment.share_files),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn shares(files: &[PathBuf]) -> Option<KeySource> {
    (!files.is_empty()).then(|| KeySource::Shares(files.to_vec()))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn arguments() -> GlobalArguments {
        GlobalArguments { memory: 256 << 20, ..GlobalArguments::default() }
    }

    fn names(settings: &Settings) -> Vec<&'static str> {
        settings.keys.iter().map(KeySource::label).collect()
    }

    #[test]
    fn the_command_line_shuts_out_the_environment() {
        let environment = Environment {
            repository: Some("/from/environment".into()),
            key_file: Some("/k".into()),
            password_file: Some("/p".into()),
            password_command: Some("true".into()),
            password: Some(Zeroizing::new(b"x".to_vec())),
            identity_file: Some("/i".into()),
            share_files: vec!["/s1".into(), "/s2".into()],
            cache: Some("/caches/seawall".into()),
            ..Environment::default()
        };
        let settings = Settings::check(&arguments(), &environment).unwrap();
        assert_eq!(settings.repository, Some("/from/environment".into()));
        assert_eq!(
            names(&settings),
            ["key file", "password file", "password command", "password", "identity file", "shares"]
        );
        assert_eq!(settings.cache, Some("/caches/seawall".into()));

        let named = GlobalArguments {
            repository: Some("/named".into()),
            password_command: Some("pass".into()),
            no_cache: true,
            threads: Some(3),
            ..arguments()
        };
        let settings = Settings::check(&named, &environment).unwrap();
        assert_eq!(settings.repository, Some("/named".into()));
        assert_eq!(names(&settings), ["password command"]);
        assert_eq!((settings.cache, settings.threads), (None, 3));
    }

    #[test]
    fn parity_comes_from_the_environment() {
        let parity = |text: &str| {
            let environment = Environment { parity: Some(text.into()), ..Environment::default() };
            Settings::check(&arguments(), &environment).map(|settings| settings.parity)
        };
        assert_eq!(parity("5%").unwrap(), Parity::of_share(0.05));
        assert_eq!(parity("0").unwrap(), None);
        assert_eq!(parity("much").err().unwrap().code(), "usage");
    }

    #[test]
    fn a_fingerprint_is_64_digits() {
        let expecting = |text: &str| GlobalArguments { expect: Some(text.to_owned()), ..arguments() };
        let environment = Environment { expect: Some("0B".repeat(32)), ..Environment::default() };
        let settings = Settings::check(&expecting(&"0a".repeat(32)), &environment).unwrap();
        assert_eq!(settings.expected, Some(ObjectHash([10; 32])));
        assert_eq!(Settings::check(&arguments(), &environment).unwrap().expected, Some(ObjectHash([11; 32])));
        for wrong in ["", "0a", &"0g".repeat(32), &"0a".repeat(33)] {
            assert_eq!(Settings::check(&expecting(wrong), &environment).err().unwrap().code(), "usage", "{wrong}");
        }
    }

    #[test]
    fn too_little_memory_is_refused() {
        let starved = GlobalArguments { memory: 1 << 20, ..arguments() };
        assert_eq!(Settings::check(&starved, &Environment::default()).err().unwrap().code(), "usage");
    }
}

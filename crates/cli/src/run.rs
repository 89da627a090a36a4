//! One run of the program: settings, streams, the wish to stop, and the way to an open repository.
//!
//! A repository is found by what was named, else the one that `protect` made for this user. The key is what was named,
//! else the key file that `protect` keeps for this repository id, else a password from a prompt.

use std::cell::{OnceCell, RefCell};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use seawall_engine::crypto::object_hash;
use seawall_engine::error::{Error, Result};
use seawall_engine::format::marker::{MARKER_BYTES_MAX, Marker};
use seawall_engine::format::names::MARKER;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::RepositoryId;
use seawall_engine::monitor::Problem;
use seawall_engine::repo::{MendedPacks, PutBack, Repository, tell_mended, tell_put_back};
use seawall_engine::store::local::LocalStore;
use seawall_engine::store::{Store, StoreError};

use crate::environment::Environment;
use crate::failure::Exit;
use crate::keys::{self, KeySource};
use crate::output::Output;
use crate::progress::Display;
use crate::settings::Settings;
use crate::stop::Stop;

/// What a reader is told when the log went back.
const ROLLBACK_ADVICE: &str = "Somebody put an older or another copy of the repository, or another repository, in its \
    place; this shows what lies there now, and nothing is written to it. If that was you, use --no-cache, or --expect with \
    the fingerprint of the repository that you want";

/// Everything that a command gets.
pub struct Run {
    /// The process's surroundings.
    pub environment: Environment,
    /// The global options.
    pub settings: Settings,
    /// Where to speak.
    pub output: Arc<Output>,
    /// The wish to stop.
    pub stop: Arc<Stop>,
    /// The machine's time zone.
    pub zone: TimeZone,
    /// How the repository's log went back, once it was opened and did.
    pub rollback: OnceCell<String>,
    /// Packs that were read with the help of their parity and of which nobody has told yet, by opened repository.
    pub mended: RefCell<Vec<MendedPacks>>,
    /// Entries of the log that were put back.
    pub put_back: RefCell<Vec<PutBack>>,
}

/// How a command ended, if it ended without an error.
pub struct Outcome {
    /// What the process exits with.
    pub exit: Exit,
    /// The fields of the JSON summary.
    pub summary: serde_json::Value,
}

impl Outcome {
    /// Ended well, with these summary fields.
    ///
    /// # Errors
    /// When the summary can't be put into JSON.
    pub fn done(summary: impl serde::Serialize) -> anyhow::Result<Self> {
        Self::with(Exit::Done, summary)
    }

    /// Ended with this exit code and these summary fields.
    ///
    /// # Errors
    /// When the summary can't be put into JSON.
    pub fn with(exit: Exit, summary: impl serde::Serialize) -> anyhow::Result<Self> {
        Ok(Self { exit, summary: serde_json::to_value(summary)? })
    }
}

impl Run {
    /// A display for one long piece of work.
    #[must_use]
    pub fn display(&self) -> Display {
        Display::start(&self.output, &self.stop)
    }

    /// Where the repository is.
    ///
    /// # Errors
    /// [`Error::Usage`] if none was named and `protect` made none.
    pub fn location(&self) -> Result<PathBuf> {
        if let Some(named) = &self.settings.repository {
            return Ok(named.clone());
        }
        self.environment
            .embedded_repository()
            .filter(|path| path.join(MARKER).exists())
            .ok_or_else(|| Error::Usage("no repository: name one with -r DIR or SEAWALL_REPOSITORY".to_owned()))
    }

    /// Opens the repository to read it. A log that went back is a problem of the run, and what is there is read.
    ///
    /// # Errors
    /// When there is none, or no key opens it.
    pub fn open(&self) -> Result<Repository> {
        let location = self.location()?;
        let repository = self.open_at(&location)?;
        if let Some(what) = repository.rollback() {
            let what = format!("rolled back: {what}. {ROLLBACK_ADVICE}");
            self.output.problem(&Problem::path(&location, "rollback", what.as_str()));
            // Why no error: a second opening in one run finds the same.
            let _ = self.rollback.set(what);
        }
        Ok(repository)
    }

    /// Opens the repository at this place to write to it.
    ///
    /// # Errors
    /// As [`Self::open`]; [`Error::Rollback`] where the log went back.
    pub fn open_to_write(&self, location: &Path) -> Result<Repository> {
        let repository = self.open_at(location)?;
        repository.refuse_after_rollback()?;
        Ok(repository)
    }

    /// What the run as a whole adds to how its command ended: a log that went back and packs that were read with the help
    /// of their parity are listed, and no run is good then.
    #[must_use]
    pub fn concluded(&self, mut outcome: Outcome) -> Outcome {
        if let Some(what) = self.rollback.get() {
            outcome.summary["rollback"] = what.as_str().into();
            if outcome.exit == Exit::Done {
                outcome.exit = Exit::Problems;
            }
        }
        let told: u64 =
            self.mended.borrow().iter().map(|packs| tell_mended(packs, &mut |it| self.output.problem(&it))).sum();
        let put_back: u64 = self
            .put_back
            .borrow()
            .iter()
            .map(|entries| tell_put_back(entries, &mut |it| self.output.problem(&it)))
            .sum();
        if told + put_back > 0 && outcome.exit == Exit::Done {
            outcome.exit = Exit::Problems;
        }
        outcome
    }

    fn open_at(&self, location: &Path) -> Result<Repository> {
        let store = open_store(location)?;
        self.open_with(&store, &self.key_sources(store.as_ref(), location)?)
    }

    fn key_sources(&self, store: &dyn Store, location: &Path) -> Result<Vec<KeySource>> {
        if !self.settings.keys.is_empty() {
            return Ok(self.settings.keys.clone());
        }
        match self.kept_key(store, location)? {
            Some(key) => Ok(vec![key]),
            None => Ok(vec![self.ask(store, location)?]),
        }
    }

    /// The ways in, for what reads the store without opening the repository.
    ///
    /// # Errors
    /// When a key can't be read.
    pub fn unlocks(&self, store: &dyn Store) -> Result<Vec<Unlock>> {
        let sources = self.key_sources(store, &self.location()?)?;
        sources.iter().map(|source| source.unlock(&self.output)).collect()
    }

    /// A password from a prompt, after a word on the key file that may be lost.
    fn ask(&self, store: &dyn Store, location: &Path) -> Result<KeySource> {
        let lost = self.key_path(&repository_id(store)?).map(|path| {
            format!("the key file {} that `protect` would have kept for this repository is not there", path.display())
        });
        // A repository that was named may well have been made with a password only.
        if self.settings.repository.is_none()
            && let Some(lost) = &lost
        {
            self.output.warn(&format!("{lost}; the recovery kit is a key file too: --key-file KIT"));
        }
        let remark = lost.map(|lost| format!("; {lost}")).unwrap_or_default();
        let question = format!("Password for {}", location.display());
        Ok(KeySource::Password(keys::prompt_or(&question, &self.stop, &remark)?))
    }

    /// Opens with the first of these keys that fits.
    fn open_with(&self, store: &Arc<dyn Store>, keys: &[KeySource]) -> Result<Repository> {
        let mut wrong = Error::WrongKey;
        for key in keys {
            let unlock = key.unlock(&self.output)?;
            let (cache, expected) = (self.settings.cache.clone(), self.settings.expected);
            match Repository::open_expected(Arc::clone(store), &unlock, cache, expected) {
                Err(Error::WrongKey) => {}
                Err(error @ Error::Shares(_)) => wrong = error,
                Ok(repository) => return Ok(self.prepare(repository)),
                Err(other) => return Err(other),
            }
        }
        Err(wrong)
    }

    /// What every repository of this run gets, however it was opened or made.
    #[must_use]
    pub fn prepare(&self, repository: Repository) -> Repository {
        self.mended.borrow_mut().push(repository.mended_packs());
        self.put_back.borrow_mut().push(repository.entries_put_back());
        if let Some(why) = repository.refused_cache() {
            let way = "it is not used, and all is read; name another with --cache-dir, or remove it";
            self.output.warn(&format!("the local cache may be somebody else's: {why}; {way}"));
        }
        self.warn_if_revoked(repository).with_parity(self.settings.parity)
    }

    fn warn_if_revoked(&self, repository: Repository) -> Repository {
        if let Some(number) = repository.revoked() {
            self.output.warn(&format!("this key was revoked (log entry {number}): the log takes nothing from it"));
        }
        repository
    }

    /// The key file that `protect` keeps for the repository in this store.
    fn kept_key(&self, store: &dyn Store, location: &Path) -> Result<Option<KeySource>> {
        let id = repository_id(store)?;
        let kept = [self.key_path(&id), self.new_key_path(location)];
        Ok(kept.into_iter().flatten().find(|path| path.exists()).map(KeySource::KeyFile))
    }

    /// Where `protect` keeps the key of a repository; `None` where no configuration directory is known.
    #[must_use]
    pub fn key_path(&self, id: &RepositoryId) -> Option<PathBuf> {
        self.environment.config.as_ref().map(|config| config.join(format!("{id}.key")))
    }

    /// Where `protect` keeps the key of a repository that it is about to make at this place.
    #[must_use]
    pub fn new_key_path(&self, location: &Path) -> Option<PathBuf> {
        let mut place = object_hash(location.as_os_str().as_bytes()).to_string();
        place.truncate(16);
        self.environment.config.as_ref().map(|config| config.join(format!("new-{place}.key")))
    }
}

/// Opens the store at a location that must hold a repository.
///
/// # Errors
/// [`Error::NoRepository`] if nothing is there.
pub fn open_store(location: &Path) -> Result<Arc<dyn Store>> {
    match LocalStore::open(location) {
        Ok(store) => {
            // Why: leftovers of killed writers only take room; where they can't be removed, nothing is lost.
            let _ = store.sweep_temporaries();
            Ok(Arc::new(store))
        }
        Err(StoreError::Missing(_)) => Err(Error::NoRepository(location.display().to_string())),
        Err(error) => Err(error.into()),
    }
}

/// Reads which repository a store holds, without a key.
///
/// # Errors
/// [`Error::NoRepository`] if it holds none.
pub fn repository_id(store: &dyn Store) -> Result<RepositoryId> {
    match store.get(MARKER, Some(0..MARKER_BYTES_MAX)) {
        Ok(bytes) => Ok(Marker::decode(&bytes)?.repository),
        Err(StoreError::Missing(_)) => Err(Error::NoRepository(store.location())),
        Err(error) => Err(error.into()),
    }
}

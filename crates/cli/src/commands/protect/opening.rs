//! Opens the repository that `protect` uses, or makes it with its key file and recovery kit.
//!
//! The key is on the disk, durably, before the repository exists, under a name made of the location; when the id is
//! known it gets its own name. So a crash at any instant leaves a repository that still opens, or none.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use seawall_engine::clock::Timestamp;
use seawall_engine::crypto::Secret32;
use seawall_engine::error::{Error, Result};
use seawall_engine::format::names::MARKER;
use seawall_engine::format::slot::{self, Unlock};
use seawall_engine::ids::RepositoryId;
use seawall_engine::repo::{Repository, seen_at};
use zeroize::Zeroizing;

use crate::commands::init::make_repository;
use crate::keys::{self, KeySource, read_key_file};
use crate::kit::Kit;
use crate::run::Run;

/// Digits of the repository's id in a kit's name.
const KIT_ID_DIGITS: usize = 8;
/// No kit is longer; a wrong path must not fill memory.
const KIT_BYTES_MAX: usize = 64 << 10;

/// An open repository and what belongs to it.
pub struct Opened {
    /// The repository.
    pub repository: Repository,
    /// True if this run made it.
    pub created: bool,
    /// The key file, if that is how it opens.
    pub key: Option<PathBuf>,
    /// The recovery kit, where it still lies where it was written.
    pub kit: Option<PathBuf>,
}

/// Where the repository is or will be.
///
/// # Errors
/// [`Error::Usage`] if none was named and there is no home directory for one.
pub fn location(run: &Run) -> Result<PathBuf> {
    run.settings
        .repository
        .clone()
        .or_else(|| run.environment.embedded_repository())
        .ok_or_else(|| Error::Usage("no home directory is known for a repository: name one with -r DIR".to_owned()))
}

/// Opens the repository, or makes it.
///
/// # Errors
/// When it can't be opened or made, or its key or kit can't be written.
pub fn open_or_make(run: &Run, location: &Path, kit: Option<&Path>) -> Result<Opened> {
    let marker = location.join(MARKER);
    match marker.try_exists() {
        Ok(true) => open(run, location, kit),
        Err(error) if error.kind() != ErrorKind::NotADirectory => {
            Err(Error::file(&marker, "cannot look for the repository", error))
        }
        _ => {
            refuse_where_another_was(run, location)?;
            make(run, location, kit)
        }
    }
}

/// Why: where the disk of the repository is not mounted, a new one in the empty mount point would say that all is well.
fn refuse_where_another_was(run: &Run, location: &Path) -> Result<()> {
    match seen_at(location, run.settings.cache.as_deref()) {
        None => Ok(()),
        Some(before) => Err(Error::Refused(format!(
            "the repository {before} was in {0}, and nothing is there now. Is its disk mounted? To begin a new one there, make it \
             with `seawall init -r {0}`",
            location.display()
        ))),
    }
}

fn open(run: &Run, location: &Path, kit: Option<&Path>) -> Result<Opened> {
    let repository = run.open_to_write(location)?;
    let key = key_in_use(run, location, &repository)?;
    let kit = match (kit, &key) {
        (Some(kit), _) if kit.exists() => {
            if !tells_of(kit, repository.id()) {
                return Err(taken(kit));
            }
            Some(kit.to_owned())
        }
        (Some(kit), Some(key)) => Some(write_kit(run, location, &repository, key, kit)?),
        (Some(_), None) => {
            return Err(Error::Usage(
                "--kit: the repository was opened with a password, a kit needs its key file".to_owned(),
            ));
        }
        // A run that was killed between making the repository and writing its kit left no snapshot and no kit.
        (None, Some(key)) if repository.snapshots().is_empty() => kit_kept(run, location, &repository, key)?,
        (None, key) => {
            key.as_deref().map(|key| kit_beside(key, repository.id())).filter(|kit| tells_of(kit, repository.id()))
        }
    };
    Ok(Opened { repository, created: false, key, kit })
}

/// The kit beside the key, written if no file is there; `None` if another file took its name.
fn kit_kept(run: &Run, location: &Path, repository: &Repository, key: &Path) -> Result<Option<PathBuf>> {
    let kit = kit_beside(key, repository.id());
    if kit.exists() {
        return Ok(Some(kit).filter(|kit| tells_of(kit, repository.id())));
    }
    write_kit(run, location, repository, key, &kit).map(Some)
}

/// True if this file is a kit of that repository. Where the user moved kits, anything may lie under the name.
fn tells_of(kit: &Path, id: RepositoryId) -> bool {
    let mut text = Zeroizing::new(String::with_capacity(KIT_BYTES_MAX));
    let read = File::open(kit).and_then(|file| file.take(KIT_BYTES_MAX as u64).read_to_string(&mut text));
    read.is_ok() && text.contains(&id.to_string())
}

fn taken(kit: &Path) -> Error {
    Error::Usage(format!("--kit {}: this file exists already; it is never overwritten", kit.display()))
}

/// The key file that the repository was opened with. One that still has its first name gets its own.
fn key_in_use(run: &Run, location: &Path, repository: &Repository) -> Result<Option<PathBuf>> {
    if !run.settings.keys.is_empty() {
        return Ok(run.settings.keys.iter().find_map(|key| match key {
            KeySource::KeyFile(path) => Some(path.clone()),
            _ => None,
        }));
    }
    let Some(own) = run.key_path(&repository.id()) else { return Ok(None) };
    if !own.exists()
        && let Some(first) = run.new_key_path(location).filter(|path| path.exists())
    {
        rename_private(&first, &own)?;
    }
    Ok(Some(own).filter(|path| path.exists()))
}

fn make(run: &Run, location: &Path, kit: Option<&Path>) -> Result<Opened> {
    if let Some(kit) = kit.filter(|kit| kit.exists()) {
        return Err(taken(kit));
    }
    let named = run.settings.keys.iter().find_map(|key| match key {
        KeySource::KeyFile(path) => Some(path.clone()),
        _ => None,
    });
    let first = match &named {
        Some(path) => path.clone(),
        None => run.new_key_path(location).ok_or_else(|| {
            Error::Usage("no home directory is known for the key: name a key file with --key-file".to_owned())
        })?,
    };
    let secret = read_or_make_key(run, &first)?;
    let repository = make_repository(run, location, &slots(run, &secret)?)?;
    let key = match named {
        Some(path) => path,
        None => {
            let own = run.key_path(&repository.id()).expect("a configuration directory was known a moment ago");
            rename_private(&first, &own)?;
            own
        }
    };
    let kit = match kit {
        Some(kit) => Some(write_kit(run, location, &repository, &key, kit)?),
        None => kit_kept(run, location, &repository, &key)?,
    };
    Ok(Opened { repository, created: true, key: Some(key), kit })
}

/// A key that is there already is used: an earlier run may have been killed before it could make the repository.
fn read_or_make_key(run: &Run, path: &Path) -> Result<Secret32> {
    if path.exists() {
        return read_key_file(path, &run.output);
    }
    let secret = Secret32::random();
    keys::write_private(path, &slot::key_file_text(&secret))?;
    Ok(secret)
}

/// One slot for the key file and one for each password that was named.
fn slots(run: &Run, secret: &Secret32) -> Result<Vec<(Unlock, String)>> {
    let mut slots = vec![(Unlock::KeyFile(secret.clone()), "key file".to_owned())];
    for key in run.settings.keys.iter().filter(|key| !matches!(key, KeySource::KeyFile(_))) {
        slots.push((key.unlock(&run.output)?, key.label().to_owned()));
    }
    Ok(slots)
}

/// `KEY.xxxxxxxx.kit.txt`, with the first digits of the repository's id: one key may open several repositories.
#[must_use]
pub fn kit_beside(key: &Path, id: RepositoryId) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(format!(".{}.kit.txt", &id.to_string()[..KIT_ID_DIGITS]));
    PathBuf::from(name)
}

fn write_kit(run: &Run, location: &Path, repository: &Repository, key: &Path, kit: &Path) -> Result<PathBuf> {
    let secret = read_key_file(key, &run.output)?;
    let text = Kit {
        repository: repository.id(),
        fingerprint: repository.fingerprint(),
        location,
        host: &run.environment.host,
        made: Timestamp::now(),
        key: &secret,
    }
    .text();
    keys::write_private(kit, &text)?;
    Ok(kit.to_owned())
}

fn rename_private(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|error| Error::file(from, "cannot rename", error))?;
    keys::sync_directory(to.parent().unwrap_or(Path::new("/")))
}

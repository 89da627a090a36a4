//! Is a checkpoint finished and whole? A marker alone proves nothing, so each layout's marker is asked first, and then
//! all that the checkpoint says of itself: extents in `.metadata`, shards in an index, ranks in names, sizes in headers.
//!
//! A layout may hold parts of another (a Trainer's checkpoint with DeepSpeed's or FSDP's states in it), so parts are looked
//! for by their files, whatever the layout is. The first thing that is lacking is told, in words for people.
//!
//! Nothing here is trusted with more than a yes or no: paths in metadata are looked up in the listing, never opened.

mod deepspeed;
mod distcp;
mod hugging_face;
mod megatron;
mod orbax;
mod overwritten;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom, seek};

pub(super) use deepspeed::{OPTIM_STATES, is_part as is_deepspeed_part, is_whole as is_whole_deepspeed};
pub(super) use megatron::is_rank_file as is_megatron_part;
pub(super) use overwritten::Written;

use super::listing::{Listing, Seen, SeenKind};
use super::{Layout, names};
use crate::clock::Timestamp;
use crate::readers::{ReadAt, Whole, whole};

/// What is asked of: a checkpoint at one moment.
pub(super) struct Scene<'c> {
    pub path: &'c Path,
    /// The name of its directory or file.
    pub name: &'c str,
    pub step: Option<u64>,
    pub is_file: bool,
    pub listing: &'c Listing,
}

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Evidence {
    /// Ranks that wrote it, if names tell.
    pub world_size: Option<u64>,
    /// When its marker was written; none where the layout has none.
    pub marked: Option<Timestamp>,
    /// What is lacking; none where it is finished and whole.
    pub lack: Option<String>,
    /// A file of numbers that has a hole, where nothing else is lacking and no marker was found: perhaps not all is written.
    pub hole: Option<String>,
}

/// What a layout's marker says: when it was written, or why it does not say that the checkpoint is finished.
type Marked = Result<Option<Timestamp>, String>;

/// The layout of a checkpoint by the names in it; none where nothing is recognised.
pub(super) fn layout(scene: &Scene) -> Option<Layout> {
    let files = || scene.listing.files();
    let any = |test: &dyn Fn(&Seen) -> bool| files().any(test);
    let is_direct = |file: &Seen| file.text() == file.name();
    if scene.is_file {
        return Some(Layout::Plain);
    }
    if orbax::is_it(scene) {
        return Some(Layout::Orbax);
    }
    if megatron::is_it(scene) {
        return Some(Layout::Megatron);
    }
    if any(&|file| is_direct(file) && distcp::is_part(file)) {
        return Some(Layout::Dcp);
    }
    if hugging_face::is_it(scene) {
        return Some(Layout::HuggingFace);
    }
    if any(&deepspeed::is_part) {
        return Some(Layout::DeepSpeed);
    }
    if any(&distcp::is_part) {
        return Some(Layout::Dcp);
    }
    let is_empty = files().next().is_none();
    (is_empty || any(&|file| names::holds_numbers(file.name()))).then_some(Layout::Plain)
}

/// Looks at everything but the run's trackers.
pub(super) fn gather(scene: &Scene, layout: Layout) -> Evidence {
    let marked = match layout {
        Layout::Dcp => distcp::marked(scene),
        Layout::Megatron => megatron::marked(scene),
        Layout::DeepSpeed | Layout::Plain => Ok(None),
        Layout::Orbax => orbax::marked(scene),
        Layout::HuggingFace => hugging_face::marked(scene),
    };
    let ranks = names::ranks(scene.listing.files().map(Seen::text));
    let lack = unfinished(scene)
        .or_else(|| marked.as_ref().err().cloned())
        .or_else(|| distcp::lack(scene))
        .or_else(|| deepspeed::lack(scene, layout))
        .or_else(|| hugging_face::lack(scene))
        .or_else(|| if layout == Layout::Megatron { megatron::lack(scene) } else { None })
        .or(ranks.lack)
        .or_else(|| if layout == Layout::HuggingFace { hugging_face::overwritten(scene) } else { None })
        .or_else(|| orbax::lack(scene))
        .or_else(|| torn_file(scene))
        .or_else(|| links(scene));
    let world_size = ranks.count.or_else(|| distcp::ranks(scene)).or_else(|| orbax::processes(scene));
    let marked = marked.ok().flatten();
    let hole = if lack.is_none() && marked.is_none() { hole(scene) } else { None };
    Evidence { world_size, marked, lack, hole }
}

/// What says that it is being written.
fn unfinished(scene: &Scene) -> Option<String> {
    if names::directory(scene.name).is_some_and(|named| named.temporary) || names::is_temporary(scene.name) {
        return Some("it still has its temporary name".to_owned());
    }
    if !scene.listing.entries().iter().any(|entry| entry.kind != SeenKind::Directory) {
        return Some("nothing is in it yet".to_owned());
    }
    let temporary = scene.listing.entries().iter().find(|entry| names::is_temporary(entry.text()))?;
    Some(format!("{} is there: it is being written", temporary.text()))
}

/// The first file that holds numbers and is not whole.
fn torn_file(scene: &Scene) -> Option<String> {
    scene.listing.files().filter(|file| names::holds_numbers(scene.shown(file))).find_map(|file| {
        match scene.open(file) {
            Err(error) => Some(format!("{} can't be read: {error}", scene.shown(file))),
            Ok(open) => match whole(&open, scene.shown(file).as_bytes()) {
                Whole::No(why) => Some(format!("{}: {why}", scene.shown(file))),
                Whole::Unknown if scene.is_file => Some("its format does not tell whether it is whole".to_owned()),
                Whole::Unknown | Whole::Yes => None,
            },
        }
    })
}

/// The first file that holds numbers and has a hole: writers that begin with the file's full length leave one until they have
/// written all.
fn hole(scene: &Scene) -> Option<String> {
    scene.listing.files().filter(|file| names::holds_numbers(scene.shown(file))).find_map(|file| {
        let open = scene.open(file).ok()?;
        let at = seek(&open.file, SeekFrom::Hole(0)).ok().filter(|&at| at < open.length)?;
        Some(format!(
            "{} has a hole at byte {at}: perhaps not all of it is written; it counts once it has rested for long",
            scene.shown(file)
        ))
    })
}

/// A link's target would not be in the snapshot, unless it is in the checkpoint itself.
fn links(scene: &Scene) -> Option<String> {
    let inside = scene.path.canonicalize().ok()?;
    let mut links = scene.listing.entries().iter().filter(|entry| entry.kind == SeenKind::Link);
    let outward = links.find(|link| {
        let target = scene.path.join(&link.path).canonicalize();
        !target.is_ok_and(|target| target.starts_with(&inside))
    })?;
    Some(format!("{} is a link that leads out of it: what it names would not be stored", outward.text()))
}

/// A regular file, read at places.
pub(super) struct OpenFile {
    file: File,
    length: u64,
}

impl ReadAt for OpenFile {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

impl Scene<'_> {
    /// A path for people: relative to the checkpoint.
    fn shown<'s>(&'s self, file: &'s Seen) -> &'s str {
        if self.is_file { self.name } else { file.text() }
    }

    fn open(&self, file: &Seen) -> io::Result<OpenFile> {
        let path = if self.is_file { self.path.to_path_buf() } else { self.path.join(&file.path) };
        // Why: it was a regular file a moment ago; should it be a link or a pipe now, nobody waits for it or follows it.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let length = file.metadata()?.len();
        Ok(OpenFile { file, length })
    }

    /// The bytes of a file of at most `bytes_max`; why not, in words.
    fn read(&self, file: &Seen, bytes_max: u64) -> Result<Vec<u8>, String> {
        let fail = |why: String| format!("{} can't be read: {why}", self.shown(file));
        let open = self.open(file).map_err(|error| fail(error.to_string()))?;
        if open.length > bytes_max {
            return Err(fail(format!("it is longer than {bytes_max} bytes")));
        }
        let mut bytes = Vec::new();
        open.file.take(bytes_max).read_to_end(&mut bytes).map_err(|error| fail(error.to_string()))?;
        Ok(bytes)
    }

    /// A file directly in the checkpoint.
    fn direct(&self, name: &str) -> Option<&Seen> {
        self.listing.file(name)
    }
}

//! One repository and several hosts at work on it, each with a cache and a source of its own, and what every snapshot must
//! give back.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::world::World;

/// A small generator of pseudo-random numbers (xorshift64), so that a run can be played again.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length / 8).flat_map(|_| self.below(u64::MAX).to_le_bytes()).collect()
    }
}

/// Length and hash of each file.
type Files = BTreeMap<PathBuf, (usize, u64)>;

/// What a backup was of.
struct Kept {
    source: PathBuf,
    files: Files,
}

pub struct Yard {
    pub world: World,
    repository: String,
    kept: Mutex<BTreeMap<String, Kept>>,
    tags: AtomicU64,
}

/// What a host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Backup,
    Forget,
    Prune,
    Rotate,
    Verify,
}

impl Yard {
    /// A new repository below this directory of the world.
    pub fn new(repository: &str) -> Self {
        let world = World::new();
        let yard = Self { world, repository: repository.to_owned(), kept: Mutex::default(), tags: AtomicU64::new(0) };
        let place = yard.world.path(repository);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        yard
    }

    pub fn init(&self) {
        self.world.ok(["init", "-r", &self.repository, "--key-file", "seawall.key"]);
    }

    pub fn host(&self, name: &str, seed: u64) -> Host<'_> {
        Host { yard: self, name: name.to_owned(), random: Random(seed | 1), file_bytes_max: 300_000, contents: 8 }
    }

    fn open<'a>(&'a self, arguments: impl IntoIterator<Item = &'a str>) -> super::world::Ended {
        let fixed = ["-r", self.repository.as_str(), "--key-file", "seawall.key", "--no-cache"];
        self.world.run(fixed.into_iter().chain(arguments))
    }

    /// All data is whole, and every live snapshot restores as its source was. Gives their number.
    pub fn check(&self) -> usize {
        self.open(["verify", "--read-data"]).expect(0);
        let lines = self.open(["--json", "snapshots"]).expect(0).json();
        let snapshots: Vec<_> = lines.iter().filter(|line| line["type"] == "snapshot").collect();
        let target = self.world.path("restored");
        for snapshot in &snapshots {
            let (id, tag) = (snapshot["id"].as_str().unwrap(), snapshot["tags"][0].as_str().unwrap());
            let kept = self.kept.lock().unwrap();
            let Kept { source, files } = &kept[tag];
            let place = format!("{id}:{}", source.display());
            self.open(["restore", &place, "--target", target.to_str().unwrap()]).expect(0);
            assert!(files_below(&target) == *files, "snapshot {id} ({tag}) differs");
            std::fs::remove_dir_all(&target).unwrap();
        }
        snapshots.len()
    }
}

pub struct Host<'y> {
    yard: &'y Yard,
    name: String,
    pub random: Random,
    /// No file of its source is longer.
    pub file_bytes_max: u64,
    /// How many different contents files of one length have.
    pub contents: u64,
}

impl Host<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let cache = format!("cache-{}", self.name);
        let fixed = ["-r", &self.yard.repository, "--key-file", "seawall.key", "--cache-dir", &cache];
        self.yard.world.command(fixed.iter().chain(arguments))
    }

    /// What does this verb, ready to be started.
    pub fn verb(&mut self, verb: Verb) -> Command {
        match verb {
            Verb::Backup => self.backup(),
            Verb::Forget => self.command(&["forget", "--keep-last", "2"]),
            Verb::Prune => self.command(&["prune", "--window", "0", "--max-unused", "0%"]),
            Verb::Rotate => self.command(&["key", "rotate"]),
            Verb::Verify => self.command(&["verify"]),
        }
    }

    /// A prune that leaves nothing to crashed or stopped runs.
    pub fn ruthless_prune(&self) -> Command {
        self.command(&["prune", "--window", "0", "--max-unused", "0%", "--orphans", "0"])
    }

    /// Changes some files, notes them, and backs them up.
    fn backup(&mut self) -> Command {
        let source = format!("source-{}", self.name);
        for _ in 0..6 {
            let name = format!("{source}/{}/{}", self.random.below(3), self.random.below(20));
            let length = [100, 5_000, self.file_bytes_max / 10, self.file_bytes_max][self.random.below(4) as usize];
            // Why so few: hosts share content, and what one has forgotten another wants again.
            let bytes = Random(1 + self.random.below(self.contents)).bytes(length);
            self.yard.world.write(&name, &bytes);
        }
        let path = self.yard.world.path(&source);
        let tag = format!("{}-{}", self.name, self.yard.tags.fetch_add(1, Ordering::SeqCst));
        let kept = Kept { files: files_below(&path), source: path };
        self.yard.kept.lock().unwrap().insert(tag.clone(), kept);
        self.command(&["backup", &source, "--host", &self.name, "--tag", &tag])
    }
}

fn files_below(directory: &Path) -> Files {
    let mut found = Files::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for item in std::fs::read_dir(&next).unwrap().map(Result::unwrap) {
            if item.file_type().unwrap().is_dir() {
                open.push(item.path());
                continue;
            }
            let bytes = std::fs::read(item.path()).unwrap();
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            let name = item.path().strip_prefix(directory).unwrap().to_path_buf();
            found.insert(name, (bytes.len(), hasher.finish()));
        }
    }
    found
}

/// How often each verb ended in each way.
#[derive(Default)]
pub struct Table(BTreeMap<(Verb, String), u64>);

impl Table {
    pub fn note(&mut self, verb: Verb, outcome: &str) {
        *self.0.entry((verb, outcome.to_owned())).or_default() += 1;
    }

    pub fn count(&self, outcome: &str) -> u64 {
        self.0.iter().filter(|((_, it), _)| it == outcome).map(|(_, count)| count).sum()
    }

    pub fn print(&self, title: &str) {
        println!("{title}");
        for ((verb, outcome), count) in &self.0 {
            println!("  {:<8} {outcome:<40} {count:>5}", format!("{verb:?}").to_lowercase());
        }
    }
}

//! Tensors of a snapshot: what is listed is what the files hold, what is extracted is a valid safetensors file with the same
//! bytes, and nothing is read that it does not need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_engine::backup::backup;
use seawall_engine::crypto::Secret32;
use seawall_engine::entry::{Extent, Kind, TreeKey};
use seawall_engine::error::Error;
use seawall_engine::format::segment::Location;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::ChunkId;
use seawall_engine::monitor::{Monitor, Problem, Silent};
use seawall_engine::readers::{self, Dtype, View};
use seawall_engine::repo::Repository;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::{Store, StoreError};
use seawall_engine::tensors::{
    ExtractOptions, ExtractReport, FileTensors, ListOptions, ListReport, Stored, extract, list,
};
use seawall_engine::units::{KIB, MIB};
use serde_json::{Value as Json, json};

use crate::place::{noise, options, paths};

/// A store in memory that counts what is got of packs.
#[derive(Default)]
pub struct Counting {
    store: MemoryStore,
    gets: AtomicU64,
    bytes: AtomicU64,
}

impl Counting {
    /// What was got since the last time.
    pub fn taken(&self) -> (u64, u64) {
        (self.gets.swap(0, Ordering::SeqCst), self.bytes.swap(0, Ordering::SeqCst))
    }
}

impl Store for Counting {
    pass_on!(location, put, create, head, list, delete, capabilities);

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        let bytes = self.store.get(name, range)?;
        if name.starts_with("pack/") {
            self.gets.fetch_add(1, Ordering::SeqCst);
            self.bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
        Ok(bytes)
    }
}

/// A source directory and a repository in memory.
pub struct Scene {
    directory: tempfile::TempDir,
    pub store: Arc<Counting>,
    pub repository: Repository,
}

impl Scene {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("source")).unwrap();
        let store = Arc::new(Counting::default());
        let slots = [(Unlock::KeyFile(Secret32::random()), "test".to_owned())];
        let repository = Repository::init(store.clone(), &slots, None).unwrap();
        Self { directory, store, repository }
    }

    pub fn source(&self, name: &str) -> PathBuf {
        self.directory.path().join("source").join(name)
    }

    pub fn write(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.source(name).parent().unwrap()).unwrap();
        fs::write(self.source(name), content).unwrap();
    }

    pub fn backup(&self) -> ChunkId {
        let source = self.directory.path().join("source");
        backup(&self.repository, options(paths(&source)), &Silent).unwrap().snapshot.unwrap().root
    }

    fn key(&self, name: &str) -> TreeKey {
        TreeKey::from_path(&self.source(name)).unwrap()
    }

    pub fn target(&self) -> PathBuf {
        self.directory.path().join("target.safetensors")
    }

    pub fn options(&self, name: &str, names: &[&str]) -> ExtractOptions {
        ExtractOptions {
            from: self.key(name),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            target: self.target(),
            replace: true,
            threads: 2,
            budget_bytes: 64 * MIB,
            ..ExtractOptions::default()
        }
    }

    pub fn extract(&self, root: &ChunkId, name: &str, names: &[&str]) -> Result<ExtractReport, Error> {
        extract(&self.repository, root, &self.options(name, names), &Silent)
    }

    pub fn list(&self, root: &ChunkId, name: &str, names: &[&str]) -> (Vec<FileTensors>, ListReport) {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let mut files = Vec::new();
        let report = list(&self.repository, root, &ListOptions { from: self.key(name), names }, &Silent, &mut |file| {
            files.push(file.clone());
            Ok(())
        });
        (files, report.unwrap())
    }

    /// The chunks of a file that a range touches, with their places, by walking its extents.
    pub fn chunks(&self, root: &ChunkId, name: &str, range: &Range<u64>) -> Vec<(ChunkId, Range<u64>, Location)> {
        let entry = self.repository.tree(root).get(&self.key(name)).unwrap().unwrap();
        let Kind::File(content) = &entry.kind else { panic!("{name} is no file") };
        let (mut at, mut chunks) = (0, Vec::new());
        for extent in self.repository.extents(content).map(Result::unwrap) {
            let place = at..at + extent.length();
            at = place.end;
            if let (Extent::Chunk { id, .. }, true) = (extent, place.start < range.end && range.start < place.end) {
                chunks.push((id, place, self.repository.locate(&id).unwrap()));
            }
        }
        chunks
    }
}

/// Name, dtype and shape as safetensors writes them, and the bytes.
type Given = (String, &'static str, Vec<u64>, Vec<u8>);

fn given(name: &str, dtype: &'static str, shape: &[u64], bytes: Vec<u8>) -> Given {
    (name.to_owned(), dtype, shape.to_vec(), bytes)
}

/// A safetensors file, written by nothing of the engine.
fn safetensors(tensors: &[Given]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// What a safetensors file holds, read by nothing of the engine. The tensors must fill the file without a gap, and the header
/// must be padded.
pub fn parse(file: &[u8]) -> BTreeMap<String, (String, Vec<u64>, Vec<u8>)> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    assert_eq!(length % 8, 0);
    let header: BTreeMap<String, Json> = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let data = &file[8 + length..];
    let mut ends = vec![(0, 0)];
    let mut tensors = BTreeMap::new();
    for (name, info) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        let numbers = |key: &str| -> Vec<u64> { serde_json::from_value(info[key].clone()).unwrap() };
        let (offsets, dtype) = (numbers("data_offsets"), info["dtype"].as_str().unwrap().to_owned());
        let (begin, end) = (offsets[0] as usize, offsets[1] as usize);
        ends.push((begin, end));
        tensors.insert(name, (dtype, numbers("shape"), data[begin..end].to_vec()));
    }
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ends:?}");
    assert_eq!(ends.last().unwrap().1, data.len());
    tensors
}

pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/readers")
}

/// A pattern that matches this name and no other.
fn exactly(name: &str) -> String {
    name.replace(['*', '?', '[', ']', '{', '}', '\\'], "?")
}

/// Numbers of a shape in the order of the same shape with its dimensions reversed.
fn turn(numbers: &[u8], shape: &[u64]) -> Vec<u8> {
    let count: u64 = shape.iter().product();
    let width = numbers.len() / count as usize;
    let place = |mut element: u64| {
        // The slowest dimension of the source is the fastest of the target.
        let (mut at, mut step) = (0, count);
        for length in shape {
            step /= length;
            at += element % length * step;
            element /= length;
        }
        at as usize * width
    };
    (0..count).flat_map(|element| numbers[place(element)..][..width].to_vec()).collect()
}

/// Every tensor of every file that other libraries wrote comes back alone, with the bytes that its writer put there, or is
/// refused by its name.
#[test]
fn fixtures_come_back_or_are_refused_by_name() {
    let expected: BTreeMap<String, Json> =
        serde_json::from_slice(&fs::read(fixtures().join("expected.json")).unwrap()).unwrap();
    let scene = Scene::new();
    for name in expected.keys() {
        scene.write(&format!("{name}.d/{name}"), &fs::read(fixtures().join(name)).unwrap());
    }
    let root = scene.backup();
    let (mut whole, mut refused) = (0, BTreeSet::new());
    let turned =
        ["arrays.npz: indexes", "fortran.npy: fortran", "model.pt: model.transposed", "protocol4.pt: model.transposed"];
    for (file, what) in &expected {
        let content = fs::read(fixtures().join(file)).unwrap();
        let rows = what["tensors"].as_array().cloned().unwrap_or_default();
        for row in &rows {
            let name = match row["name"].as_str().unwrap() {
                "" => file.rsplit_once('.').unwrap().0,
                name => name,
            };
            let several = rows.iter().filter(|other| other["name"] == row["name"]).count() > 1;
            match scene.extract(&root, &format!("{file}.d"), &[&exactly(name)]) {
                Ok(report) => {
                    assert!(!several);
                    let made = parse(&fs::read(scene.target()).unwrap());
                    let (dtype, shape, bytes) = &made[name];
                    assert_eq!((made.len(), report.tensors.len(), report.bytes), (1, 1, bytes.len() as u64));
                    let range: [usize; 2] = serde_json::from_value(row["range"].clone()).unwrap();
                    let mut lies: Vec<u64> = serde_json::from_value(row["shape"].clone()).unwrap();
                    let mut numbers = content[range[0]..range[1]].to_vec();
                    if turned.contains(&format!("{file}: {name}").as_str()) {
                        numbers = turn(&numbers, &lies);
                        lies.reverse();
                    }
                    assert_eq!(*bytes, numbers, "{file}: {name}");
                    assert_eq!(json!((dtype.to_lowercase(), shape)), json!((&row["dtype"], lies)), "{file}: {name}");
                    whole += 1;
                }
                Err(error) => {
                    assert!(
                        error.to_string().contains(name) && matches!(error, Error::Usage(_) | Error::NotFound(_)),
                        "{error}"
                    );
                    assert!(!scene.target().exists(), "{file}: {name}");
                    refused.insert(format!("{file}: {name}"));
                }
            }
            let _ = fs::remove_file(scene.target());
        }
    }
    assert!(whole > 40, "{whole}");
    let wanted: BTreeSet<String> = [
        // Without the .metadata beside it, nobody knows whose parts these are.
        "__0_0.distcp: __0_0",
        "safetensors.distcp: part",
        // Quantised.
        "aligned.gguf: blk.1.q4k",
        "aligned.gguf: blk.1.q8",
        "model.gguf: blk.1.q4k",
        "model.gguf: blk.1.q8",
        // Big-endian, a kind that numpy has no name for, and a record.
        "big.npy: big",
        "big.pt: a",
        "brain.npy: brain",
        "record.npy: record",
        // Two that have no name.
        "model.onnx: model",
        // Parts of storages that no tensor covers.
        "model.pt: data/3",
        "model.pt: data/4",
        "protocol4.pt: data/3",
        "protocol4.pt: data/4",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(refused, wanted);
}

/// The files of `odd.py`: a tensor comes back as its program sees it, under its own shape, or not at all.
#[test]
fn odd_files_come_back_as_they_were_or_not_at_all() {
    let scene = Scene::new();
    let odd = fixtures().join("odd");
    let expected: BTreeMap<String, Json> =
        serde_json::from_slice(&fs::read(odd.join("expected.json")).unwrap()).unwrap();
    for name in expected.keys() {
        scene.write(&format!("{name}.d/{name}"), &fs::read(odd.join(name)).unwrap());
    }
    let root = scene.backup();
    let (mut whole, mut refused) = (0, 0);
    for (file, what) in &expected {
        let rows = what["tensors"].as_array().unwrap();
        for row in rows {
            let (name, own) = (row["name"].as_str().unwrap(), &row["own"]);
            match scene.extract(&root, &format!("{file}.d"), &[&exactly(name)]) {
                Ok(_) => {
                    let (dtype, shape, bytes) = parse(&fs::read(scene.target()).unwrap()).remove(name).unwrap();
                    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    let wanted = json!([row["dtype"], own["shape"], own["numbers"]]);
                    assert_eq!(json!([dtype.to_lowercase(), shape, hex]), wanted, "{file}: {name}");
                    whole += 1;
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(own.is_null() && text.contains(name), "{file}: {text}");
                    assert_eq!(text.contains("middle of a byte"), row["view"] == "Span", "{file}: {text}");
                    refused += 1;
                }
            }
        }
        let (files, _) = scene.list(&root, &format!("{file}.d"), &[]);
        assert_eq!(files[0].tensors.len(), rows.len(), "{file}: more is listed");
    }
    assert_eq!((whole, refused), (15, 10));
}

/// All tensors of a file that the format's own library wrote become that file again, but for its notes and for tensors
/// without numbers.
#[test]
fn a_whole_file_comes_back() {
    let scene = Scene::new();
    let content = fs::read(fixtures().join("model.safetensors")).unwrap();
    scene.write("model.safetensors", &content);
    let root = scene.backup();
    scene.extract(&root, "model.safetensors", &["*"]).unwrap();
    let mut before = parse(&content);
    before.retain(|_, (_, shape, _)| !shape.contains(&0));
    let made = fs::read(scene.target()).unwrap();
    assert_eq!(parse(&made), before);
    let data = before.values().map(|tensor| tensor.2.len()).sum::<usize>();
    assert_eq!(made[made.len() - data..], content[content.len() - data..], "the library's order of tensors");
}

/// The pieces of a distributed checkpoint become whole tensors.
#[test]
fn pieces_are_put_together_by_metadata() {
    let scene = Scene::new();
    let file = fs::read(fixtures().join("__0_0.distcp")).unwrap();
    scene.write("step/__0_0.distcp", &file);
    scene.write("step/.metadata", &fs::read(fixtures().join("checkpoint.metadata")).unwrap());
    let root = scene.backup();
    for from in ["step", "step/__0_0.distcp"] {
        let report = scene.extract(&root, from, &["*"]).unwrap();
        assert_eq!(report.tensors.len(), 2);
        let made = parse(&fs::read(scene.target()).unwrap());
        let rows = [&file[384..512], &file[1472..1536]].concat();
        assert_eq!(made["layer.0.weight"], ("F32".to_owned(), vec![6, 8], rows));
        assert_eq!(made["layer.1.bias"], ("F32".to_owned(), vec![10], file[2496..2536].to_vec()));
    }
    let (files, _) = scene.list(&root, "step", &["layer.0.*"]);
    let places: Vec<_> = files[0].tensors.iter().map(|stored| stored.place.clone().unwrap()).collect();
    assert_eq!(places.iter().map(|place| place.offset.clone()).collect::<Vec<_>>(), [vec![0, 0], vec![4, 0]]);
    assert!(places.iter().all(|place| place.parts == 2));
}

/// Halves of different steps make no whole, though their numbers fit; of two whole steps one has to be named.
#[test]
fn pieces_without_elements_are_no_parts() {
    let scene = Scene::new();
    let place = fixtures().join("odd/empty");
    let files = [".metadata", "__0_0.distcp", "__1_0.distcp", "__2_0.distcp"];
    files.iter().for_each(|name| scene.write(&format!("step/{name}"), &fs::read(place.join(name)).unwrap()));
    let root = scene.backup();
    scene.extract(&root, "step", &["*"]).unwrap();
    let made = parse(&fs::read(scene.target()).unwrap());
    assert_eq!(made, parse(&fs::read(place.join("expected")).unwrap()));
    // A part that has elements and is not there is missing as before.
    let refused = scene.extract(&root, "step/__0_0.distcp", &["rows"]).unwrap_err().to_string();
    assert!(refused.contains("2 parts, of which 1 are here"), "{refused}");
}

/// Parts of two checkpoints that are of one name.
#[test]
fn pieces_of_several_checkpoints_are_not_put_together() {
    let scene = Scene::new();
    let ranks = fixtures().join("../checkpoints/ranks");
    let put = |step: &str, name: &str, file: &str| {
        scene.write(&format!("{step}/{name}"), &fs::read(ranks.join(file)).unwrap())
    };
    for (step, part) in [("step-1", "__0_0.distcp"), ("step-2", "__1_0.distcp")] {
        put(step, ".metadata", "metadata");
        put(step, part, part);
    }
    let refused = |root: &ChunkId| scene.extract(root, "", &["weight"]).unwrap_err().to_string();
    let why = refused(&scene.backup());
    assert!(why.contains("step-1/__0_0.distcp") && why.contains("step-2/__1_0.distcp"), "{why}");
    put("step-1", "__1_0.distcp", "__1_0.distcp");
    put("step-2", "__0_0.distcp", "__0_0.distcp");
    let root = scene.backup();
    let why = refused(&root);
    assert!(why.contains("step-1/__0_0.distcp") && why.contains("name the folder of one"), "{why}");
    let report = scene.extract(&root, "step-2", &["weight"]).unwrap();
    assert_eq!((report.tensors.len(), &report.tensors[0].shape[..]), (1, &[6, 8][..]));
}

/// Three shards of noise with tensors of all lengths. Gives what they hold.
fn shards(scene: &Scene) -> Vec<(String, Vec<Given>)> {
    let mut seed = 0;
    let mut bytes = |length: usize| {
        seed += 1;
        noise(seed, length)
    };
    let mut tensor = |name: &str, rows: u64, columns: u64| {
        let data = bytes(usize::try_from(rows * columns * 2).unwrap());
        given(name, "BF16", &[rows, columns], data)
    };
    let mut shards = Vec::new();
    for number in 0..3 {
        let tensors = vec![
            tensor(&format!("layer.{number}.large"), 1024, 2048),
            tensor(&format!("layer.{number}.norm"), 1, 300),
            tensor(&format!("layer.{number}.middle"), 301, 1111),
            tensor(&format!("layer.{number}.last"), 512, 1024),
        ];
        let name = format!("model-{number}.safetensors");
        scene.write(&name, &safetensors(&tensors));
        shards.push((name, tensors));
    }
    shards
}

/// Where a tensor lies in a file of [`safetensors`].
fn range_of(file: &Path, tensors: &[Given], name: &str) -> Range<u64> {
    let all = tensors.iter().map(|tensor| tensor.3.len() as u64).sum::<u64>();
    let mut at = fs::metadata(file).unwrap().len() - all;
    for (found, .., bytes) in tensors {
        if found == name {
            return at..at + bytes.len() as u64;
        }
        at += bytes.len() as u64;
    }
    panic!("no tensor {name}");
}

#[test]
fn shards_give_what_matches() {
    let scene = Scene::new();
    let shards = shards(&scene);
    scene.write("config.json", b"{}");
    scene.write("notes/readme.txt", &noise(99, 5000));
    let root = scene.backup();
    for (from, patterns, wanted) in [
        ("", &["layer.1.*"][..], vec!["layer.1.large", "layer.1.last", "layer.1.middle", "layer.1.norm"]),
        ("", &["*.norm"], vec!["layer.0.norm", "layer.1.norm", "layer.2.norm"]),
        ("", &["layer.2.last", "layer.0.m*"], vec!["layer.0.middle", "layer.2.last"]),
        ("model-2.safetensors", &["*.l*"], vec!["layer.2.large", "layer.2.last"]),
    ] {
        let report = scene.extract(&root, from, patterns).unwrap();
        let made = parse(&fs::read(scene.target()).unwrap());
        let names: Vec<&String> = report.tensors.iter().map(|tensor| &tensor.name).collect();
        assert_eq!(
            (names, made.len()),
            (wanted.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().iter().collect(), wanted.len())
        );
        for (name, dtype, shape, bytes) in shards.iter().flat_map(|(_, tensors)| tensors) {
            if let Some(made) = made.get(name) {
                assert!(*made == ((*dtype).to_owned(), shape.clone(), bytes.clone()), "{name}");
            }
        }
        assert_eq!(report.file_bytes, fs::metadata(scene.target()).unwrap().len());
    }
}

/// Only blobs with headers and with the numbers asked for are got, each once, and all others may be damaged.
#[test]
fn nothing_else_is_fetched() {
    let scene = Scene::new();
    let shards = shards(&scene);
    let root = scene.backup();
    let (file, tensors) = &shards[1];
    let wanted = "layer.1.middle";
    let range = range_of(&scene.source(file), tensors, wanted);
    let numbers = scene.chunks(&root, file, &range);
    // Whoever looks what a file is reads its first 512 bytes.
    let header = scene.chunks(&root, file, &(0..512));
    let length = |chunks: &[(ChunkId, Range<u64>, Location)]| -> u64 {
        chunks.iter().map(|chunk| 48 + u64::from(chunk.2.sealed_len)).sum()
    };
    let all = scene.chunks(&root, file, &(0..u64::MAX));
    assert!(all.len() > numbers.len() + 2 && numbers.len() > 1, "{} of {}", numbers.len(), all.len());

    // What the tree alone takes is got for a dry run with the header.
    scene.store.taken();
    let dry = ExtractOptions { dry_run: true, ..scene.options(file, &[wanted]) };
    let looked = extract(&scene.repository, &root, &dry, &Silent).unwrap();
    let (tree_gets, tree_bytes) = scene.store.taken();
    assert_eq!((looked.blobs, looked.bytes_fetched), (header.len() as u64, length(&header)));
    assert!(!scene.target().exists());
    let report = scene.extract(&root, file, &[wanted]).unwrap();
    let (gets, bytes) = scene.store.taken();
    let blobs = (header.len() + numbers.len()) as u64;
    assert_eq!((report.blobs, report.bytes_fetched), (blobs, length(&header) + length(&numbers)));
    assert_eq!((gets - tree_gets, bytes - tree_bytes), (numbers.len() as u64, length(&numbers)));

    let needed: BTreeSet<ChunkId> = numbers.iter().chain(&header).map(|chunk| chunk.0).collect();
    let mut damaged = 0;
    for (name, _) in &shards {
        for (id, _, location) in scene.chunks(&root, name, &(0..u64::MAX)) {
            if needed.contains(&id) {
                continue;
            }
            let object = location.pack.object();
            let mut pack = scene.store.get(&object, None).unwrap();
            let start = location.offset as usize;
            pack[start..start + 48 + location.sealed_len as usize].fill(0);
            scene.store.store.replace(&object, &pack);
            damaged += 1;
        }
    }
    assert!(damaged > 10, "{damaged}");
    fs::remove_file(scene.target()).unwrap();
    scene.extract(&root, file, &[wanted]).unwrap();
    assert!(parse(&fs::read(scene.target()).unwrap())[wanted].2 == tensors[2].3);

    // One damaged chunk among those that are needed: nothing stays.
    fs::remove_file(scene.target()).unwrap();
    let failed = scene.extract(&root, file, &["layer.1.*"]).unwrap_err();
    assert!(failed.is_damage(), "{failed}");
    assert_eq!(names_in(scene.directory.path()), ["source"]);
}

fn names_in(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn what_stands_at_the_target_stays() {
    let scene = Scene::new();
    let tensors = [given("a", "U8", &[100], noise(1, 100))];
    scene.write("one.safetensors", &safetensors(&tensors));
    fs::set_permissions(scene.source("one.safetensors"), fs::Permissions::from_mode(0o640)).unwrap();
    let root = scene.backup();
    fs::write(scene.target(), "old").unwrap();
    for dry_run in [false, true] {
        let options = ExtractOptions { replace: false, dry_run, ..scene.options("", &["*"]) };
        let refused = extract(&scene.repository, &root, &options, &Silent).unwrap_err();
        assert!(
            refused.to_string().contains("target.safetensors") && refused.to_string().contains("stands there"),
            "{refused}"
        );
        assert_eq!(fs::read(scene.target()).unwrap(), b"old");
    }
    scene.extract(&root, "", &["a"]).unwrap();
    assert!(parse(&fs::read(scene.target()).unwrap())["a"].2 == tensors[0].3);
    assert_eq!(names_in(scene.directory.path()), ["source", "target.safetensors"]);
    // Nobody may read it who may not read the source.
    assert_eq!(fs::metadata(scene.target()).unwrap().permissions().mode() & 0o137, 0);
}

#[test]
fn what_can_not_be_given_is_said() {
    let scene = Scene::new();
    let tensors =
        |seed| [given("w", "F32", &[25], noise(seed, 100)), given(&format!("own.{seed}"), "U8", &[1], vec![7])];
    scene.write("a/one.safetensors", &safetensors(&tensors(1)));
    scene.write("b/two.safetensors", &safetensors(&tensors(2)));
    scene.write("text/readme", b"text");
    let root = scene.backup();
    for (from, patterns, words) in [
        ("", &["w"][..], &["\"w\"", "a/one.safetensors", "b/two.safetensors"][..]),
        ("", &["*"], &["\"w\"", "a/one.safetensors", "b/two.safetensors"]),
        ("a", &["w", "no.such.*"], &["\"no.such.*\""]),
        ("text", &["*"], &["text", "layout"]),
        ("text/readme", &["*"], &["readme", "layout"]),
        ("nothing", &["*"], &["nothing", "not in the snapshot"]),
        ("a", &["[w"], &["pattern"]),
    ] {
        let error = scene.extract(&root, from, patterns).unwrap_err();
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{patterns:?}: {text}");
        assert!(matches!(error, Error::Usage(_) | Error::NotFound(_)), "{error:?}");
    }
    scene.extract(&root, "b", &["w"]).unwrap();
    assert!(parse(&fs::read(scene.target()).unwrap())["w"].2 == tensors(2)[0].3);
}

/// Remembers problems.
#[derive(Default)]
struct Heard(std::sync::Mutex<Vec<Problem>>);

impl Monitor for Heard {
    fn problem(&self, problem: Problem) {
        self.0.lock().unwrap().push(problem);
    }
}

/// A header that can't be read hides tensors: patterns can't be answered then, names can.
#[test]
fn damaged_headers_hide_nothing_silently() {
    let scene = Scene::new();
    scene.write("a.safetensors", &safetensors(&[given("a", "U8", &[5000], noise(1, 5000))]));
    scene.write("b.safetensors", &safetensors(&[given("b", "U8", &[5000], noise(2, 5000))]));
    let root = scene.backup();
    let (_, _, location) = scene.chunks(&root, "b.safetensors", &(0..1))[0];
    let mut pack = scene.store.get(&location.pack.object(), None).unwrap();
    let start = location.offset as usize;
    pack[start + 60] ^= 1;
    scene.store.store.replace(&location.pack.object(), &pack);
    assert!(scene.extract(&root, "", &["*"]).unwrap_err().is_damage());
    let heard = Heard::default();
    let report = extract(&scene.repository, &root, &scene.options("", &["a"]), &heard).unwrap();
    let problems = heard.0.into_inner().unwrap();
    assert_eq!((report.problems, problems.len(), problems[0].code), (1, 1, "damaged"));
    assert!(problems[0].subject.ends_with("b.safetensors"), "{problems:?}");
    let (files, report) = scene.list(&root, "", &[]);
    assert_eq!((files.len(), report.tensors, report.problems), (1, 1, 1));
}

/// A header of more tensors than fit: the listing says that there are more, patterns are refused, and names that are there
/// come with a warning.
#[test]
fn tensors_that_are_too_many_are_not_passed_over_in_silence() {
    let scene = Scene::new();
    let padding = "n".repeat(1000);
    let name = |number: usize| format!("{number:05}.{padding}");
    let tensors: Vec<Given> = (0..32_000).map(|number| given(&name(number), "U8", &[1], vec![number as u8])).collect();
    scene.write("many.safetensors", &safetensors(&tensors));
    scene.write("few.safetensors", &safetensors(&[given("few", "U8", &[5], noise(1, 5))]));
    let root = scene.backup();
    let heard = Heard::default();
    let mut listed = 0;
    let all = ListOptions { from: scene.key(""), names: Vec::new() };
    let report = list(&scene.repository, &root, &all, &heard, &mut |file| {
        listed += file.tensors.len();
        Ok(())
    });
    assert_eq!(report.unwrap().problems, 1);
    assert!(listed > 20_000 && listed < 32_000, "{listed}");
    let problems = heard.0.into_inner().unwrap();
    assert_eq!((problems.len(), problems[0].code), (1, "too-many"));
    let left_out = format!("{} more", 32_001 - listed);
    // One of those that are listed is of the other file.
    assert!(problems[0].subject.ends_with("many.safetensors") && problems[0].what.contains(&left_out));
    for pattern in ["00*", &name(31_999)] {
        let error = scene.extract(&root, "", &[pattern]).unwrap_err();
        assert!(matches!(&error, Error::Usage(text) if text.contains(&left_out)), "{error}");
        assert!(!scene.target().exists());
    }
    let heard = Heard::default();
    let report = extract(&scene.repository, &root, &scene.options("", &["few", &name(7)]), &heard).unwrap();
    assert_eq!((report.problems, report.tensors.len()), (1, 2));
    assert_eq!(heard.0.into_inner().unwrap()[0].code, "too-many");
}

#[test]
fn a_listing_is_what_the_index_says() {
    let scene = Scene::new();
    let shards = shards(&scene);
    scene.write("zeros.safetensors", &safetensors(&[given("zeros", "F32", &[1 << 20], vec![0; 4 * MIB])]));
    let hole =
        safetensors(&[given("hole", "F32", &[1 << 20], vec![0; 4 * MIB]), given("end", "U8", &[9], noise(9, 9))]);
    fs::write(scene.source("sparse.safetensors"), &hole[..100]).unwrap();
    let sparse = fs::OpenOptions::new().write(true).open(scene.source("sparse.safetensors")).unwrap();
    sparse.set_len(hole.len() as u64).unwrap();
    sparse.write_all_at(&hole[..300], 0).unwrap();
    sparse.write_all_at(&hole[hole.len() - 9..], hole.len() as u64 - 9).unwrap();
    drop(sparse);
    scene.write("small.safetensors", &safetensors(&[given("small", "U8", &[10], noise(3, 10))]));
    let root = scene.backup();
    scene.store.taken();
    let (files, report) = scene.list(&root, "", &[]);
    assert!(scene.store.taken().1 < 8 * MIB as u64, "of the numbers nothing is read");
    assert_eq!((report.files, report.tensors, report.problems), (6, 16, 0));
    let find = |name: &str| -> &Stored {
        files.iter().flat_map(|file| &file.tensors).find(|stored| stored.tensor.name == name).unwrap()
    };
    for (file, tensors) in &shards {
        for (name, _, shape, _) in tensors {
            let stored = find(name);
            assert_eq!(
                (stored.tensor.dtype, &stored.tensor.shape, stored.tensor.view),
                (Dtype::Bf16, shape, View::Own)
            );
            let range = range_of(&scene.source(file), tensors, name);
            let chunks = scene.chunks(&root, file, &range);
            let own = |place: &Range<u64>| range.end.min(place.end) - range.start.max(place.start);
            let parts = chunks
                .iter()
                .map(|(_, place, location)| u64::from(location.sealed_len) * own(place) / (place.end - place.start));
            assert_eq!((stored.stored_bytes, stored.chunks), (parts.sum::<u64>(), chunks.len() as u64), "{name}");
            assert_eq!((&stored.encodings[..], stored.with_base), (&["raw"][..], 0), "{name}");
        }
    }
    assert!(find("zeros").encodings.contains(&"constant") && find("zeros").stored_bytes < 40 * KIB as u64);
    assert!(find("hole").encodings.contains(&"hole"), "{:?}", find("hole"));
    assert_eq!((&find("small").encodings[..], find("small").stored_bytes), (&["inline"][..], 10));
    let shown: u64 = files.iter().flat_map(|file| &file.tensors).map(|stored| stored.stored_bytes).sum();
    assert_eq!(shown, report.stored_bytes);

    // What lies in a hole comes back as zeros.
    scene.extract(&root, "sparse.safetensors", &["*"]).unwrap();
    let made = parse(&fs::read(scene.target()).unwrap());
    assert!(made["hole"].2 == vec![0; 4 * MIB] && made["end"].2 == noise(9, 9));
}

#[test]
fn a_listing_names_bases() {
    let scene = Scene::new();
    let numbers = noise(5, 6 * MIB);
    let file = |numbers: &[u8]| safetensors(&[given("w", "U8", &[numbers.len() as u64], numbers.to_vec())]);
    scene.write("model.safetensors", &file(&numbers));
    let first = scene.backup();
    let mut later = numbers.clone();
    later[3 * MIB] ^= 1;
    scene.write("model.safetensors", &file(&later));
    let second = scene.backup();
    let based = |root| scene.list(root, "model.safetensors", &["w"]).0[0].tensors[0].clone();
    assert_eq!((based(&first).with_base, based(&first).bases.len()), (0, 0));
    let stored = based(&second);
    assert!(stored.with_base >= 1 && stored.encodings.contains(&"difference"), "{stored:?}");
    let chunks = scene.chunks(&second, "model.safetensors", &(0..u64::MAX));
    let bases: Vec<ChunkId> = chunks.iter().filter_map(|chunk| chunk.2.base).collect();
    assert_eq!((stored.bases, stored.with_base), (bases.clone(), bases.len() as u64));
    // A tensor that needs a base gets it.
    scene.extract(&second, "model.safetensors", &["w"]).unwrap();
    assert!(parse(&fs::read(scene.target()).unwrap())["w"].2 == later);
}

/// What is written is what our own reader understands, too.
#[test]
fn our_reader_reads_what_is_written() {
    let scene = Scene::new();
    let shards = shards(&scene);
    let root = scene.backup();
    scene.extract(&root, "", &["*"]).unwrap();
    let made = fs::read(scene.target()).unwrap();
    let layout = readers::read(&&made[..], b"target.safetensors").unwrap();
    assert_eq!(layout.tensors.len(), 12);
    let all: BTreeMap<&str, &[u8]> =
        shards.iter().flat_map(|(_, tensors)| tensors).map(|tensor| (&tensor.0[..], &tensor.3[..])).collect();
    for tensor in &layout.tensors {
        let range = tensor.range.start as usize..tensor.range.end as usize;
        assert!(made[range] == *all[&tensor.name[..]], "{}", tensor.name);
    }
}

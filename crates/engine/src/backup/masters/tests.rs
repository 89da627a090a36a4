//! Which parts are found in flat tensors, and what bounds the search.

use super::*;
use crate::readers::{Format, View};

/// A BF16 tensor to look for: elements in rows and columns, and the seed of its numbers; 0 makes them all ones.
type Spec = (u64, u64, u64);

fn numbers((rows, columns, seed): Spec) -> Vec<u8> {
    let mut noise = vec![0; usize::try_from(rows * columns * 2).unwrap()];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    let one = |pair: &[u8; 2]| if seed == 0 { 1.0 } else { f32::from(u16::from_le_bytes(*pair)) / 65_536.0 + 1e-3 };
    noise.as_chunks().0.iter().flat_map(|pair| one(pair).to_le_bytes()).collect()
}

fn layout(tensors: &[(&str, Dtype, Vec<u64>)]) -> Layout {
    let mut end = 0;
    let tensors = tensors.iter().map(|(name, dtype, shape)| {
        let start = end;
        end += dtype.bytes_of(shape.iter().product()).unwrap();
        Tensor { name: (*name).into(), dtype: *dtype, shape: shape.clone(), view: View::Own, range: start..end }
    });
    let tensors = tensors.collect();
    let (checks, boundaries) = (Vec::new(), Vec::new());
    Layout { format: Format::Safetensors, tensors, checks, boundaries, left_out: 0, strided: Vec::new() }
}

struct Scene {
    directory: tempfile::TempDir,
    remembered: Remembered,
    casts: CastTensors,
}

impl Scene {
    /// A file with the casts of these.
    fn new(specs: &[Spec]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model");
        let cast = |spec: &Spec| {
            let mut cast = Vec::new();
            assert!(Cast::Bf16.apply(&numbers(*spec), &mut cast));
            cast
        };
        std::fs::write(&path, specs.iter().flat_map(cast).collect::<Vec<u8>>()).unwrap();
        let tensors: Vec<_> = specs.iter().map(|(rows, columns, _)| ("", Dtype::Bf16, vec![*rows, *columns])).collect();
        let remembered = Remembered::default();
        let mut casts = CastTensors::new([0; 16], &remembered);
        casts.add(path.into(), &layout(&tensors));
        Self { directory, remembered, casts }
    }

    /// The parts of a file of flat tensors: tensor, first element in it, elements, and elements before.
    fn parts(&self, tensors: &[(&str, Vec<u8>)]) -> Vec<(usize, u64, u64, u64)> {
        let path = self.directory.path().join("masters");
        std::fs::write(&path, tensors.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<u8>>()).unwrap();
        let shapes: Vec<_> =
            tensors.iter().map(|(name, bytes)| (*name, Dtype::F32, vec![bytes.len() as u64 / 4])).collect();
        let layout = layout(&shapes);
        let parts = self.casts.parts(&File::open(&path).unwrap(), &layout);
        let flat = parts.into_iter().flat_map(|(index, parts)| {
            let start = layout.tensors[index].range.start;
            parts.into_iter().map(move |part| {
                let elements = (part.range.end - part.range.start) / 4;
                (index, (part.range.start - start) / 4, elements, part.before)
            })
        });
        flat.collect()
    }
}

const LARGE: [Spec; 3] = [(200, 300, 1), (300, 100, 2), (100, 500, 3)];

fn joined(specs: &[Spec]) -> Vec<u8> {
    specs.iter().flat_map(|spec| numbers(*spec)).collect()
}

#[test]
fn parameters_are_found_in_any_order() {
    let [a, b, c] = LARGE;
    let scene = Scene::new(&LARGE);
    let found = scene.parts(&[("0", joined(&[c, a])), ("1", joined(&[b]))]);
    assert_eq!(found, [(0, 0, 50_000, 0), (0, 50_000, 60_000, 0), (1, 0, 30_000, 0)]);
}

#[test]
fn short_ones_and_those_that_begin_alike_are_stepped_over() {
    let specs = [(1, 300, 0), LARGE[0], (1, 3, 4), (1, 700, 0), LARGE[1], (1, 300, 0), LARGE[2]];
    let scene = Scene::new(&specs);
    let found = scene.parts(&[("0", joined(&specs))]);
    let starts = [0, 300, 60_300, 60_303, 61_003, 91_003, 91_303];
    assert_eq!(found.iter().map(|part| part.1).collect::<Vec<_>>(), starts);
}

#[test]
fn padding_between_and_behind_is_passed() {
    let [a, b, c] = LARGE;
    let scene = Scene::new(&[a, b, c, (7, 9, 8)]);
    let mut flat = joined(&[(7, 9, 8)]);
    flat.resize(4 * 64, 0);
    flat.extend(joined(&[a]));
    flat.resize(flat.len().next_multiple_of(4 * 128), 0);
    flat.extend(joined(&[b]));
    flat.resize(flat.len() + 4000, 0);
    let padded = (64 + 60_000_u64).next_multiple_of(128);
    assert_eq!(scene.parts(&[("0", flat)]), [(0, 0, 63, 0), (0, 64, 60_000, 0), (0, padded, 30_000, 0)]);
}

/// What one file's tensor breaks off goes on in the next file's of the same name, and in no other.
#[test]
fn the_next_rank_goes_on_where_the_one_before_ended() {
    let flat = joined(&LARGE);
    let (first, second) = flat.split_at(4 * 80_000);
    let scene = Scene::new(&LARGE);
    assert_eq!(scene.parts(&[("fp32", first.to_vec())]), [(0, 0, 60_000, 0), (0, 60_000, 20_000, 0)]);
    assert_eq!(scene.parts(&[("other", second.to_vec())]), []);
    assert_eq!(scene.parts(&[("fp32", second.to_vec())]), [(0, 0, 10_000, 20_000), (0, 10_000, 50_000, 0)]);
}

/// Flat moments are cut as the flat masters are, and are no masters.
#[test]
fn moments_have_the_parts_of_masters_of_their_length() {
    let scene = Scene::new(&LARGE);
    let moments = |seed| numbers((1, 140_000, seed));
    let found =
        scene.parts(&[("m", moments(7)), ("fp32", joined(&LARGE)), ("v", moments(8)), ("x", moments(9)[4..].to_vec())]);
    let parts = [(0, 60_000), (60_000, 30_000), (90_000, 50_000)];
    let expected = (0..3).flat_map(|tensor| parts.map(|(start, count)| (tensor, start, count, 0)));
    assert_eq!(found, expected.collect::<Vec<_>>());
    let layout = layout(&[("m", Dtype::F32, vec![140_000]), ("fp32", Dtype::F32, vec![140_000])]);
    let path = scene.directory.path().join("masters");
    let parts = scene.casts.parts(&File::open(path).unwrap(), &layout);
    assert!(parts[&0].iter().all(|part| !part.is_master) && parts[&1].iter().all(|part| part.is_master));
    assert_eq!(parts[&0].iter().map(|part| part.row).collect::<Vec<_>>(), [Some(300), Some(100), Some(500)]);
}

/// What is not there, or not what it was, finds nothing; and what is remembered is given back.
#[test]
fn a_file_that_is_gone_or_short_finds_nothing() {
    let scene = Scene::new(&LARGE);
    let flat = joined(&LARGE);
    let model = scene.directory.path().join("model");
    std::fs::write(&model, [0; 1000]).unwrap();
    assert_eq!(scene.parts(&[("0", flat.clone())]), []);
    let scene = Scene::new(&LARGE);
    std::fs::remove_file(scene.directory.path().join("model")).unwrap();
    assert_eq!(scene.parts(&[("0", flat)]), []);
    let Scene { casts, remembered, .. } = scene;
    assert_eq!(remembered.0.load(Ordering::Relaxed), 3);
    drop(casts);
    assert_eq!(remembered.0.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_remembered_is_bounded() {
    let remembered = Remembered(Arc::new(AtomicUsize::new(TENSORS_MAX - 2)));
    let mut casts = CastTensors::new([0; 16], &remembered);
    let tensors = [(); 5].map(|()| ("", Dtype::Bf16, vec![10_u64]));
    casts.add(Path::new("/").into(), &layout(&tensors));
    assert_eq!((casts.tensors.len(), remembered.0.load(Ordering::Relaxed)), (2, TENSORS_MAX));
}

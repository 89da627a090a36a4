//! Fuzz targets of what a scanner for checkpoints reads: trackers, lists and manifests of each layout, with the rest of the
//! checkpoint beside them, on the disk; and the parts of an OCDBT store.

use std::fs;
use std::path::Path;
use std::time::Duration;

use seawall_engine::clock::{Timestamp, monotonic};
use seawall_engine::readers::ocdbt::{self, FOOT_BYTES, HEAD_BYTES};
use seawall_engine::stages::checkpoint::{Pace, Scanner};

/// A layout: the file that is fuzzed, and what lies beside it.
struct Tree {
    file: &'static str,
    seed: fn() -> Vec<u8>,
    beside: &'static [&'static str],
}

const TREES: [Tree; 9] = [
    Tree { file: "latest_checkpointed_iteration.txt", seed: || b"100".to_vec(), beside: &["iter_0000100/common.pt"] },
    Tree {
        file: "iter_0000100/metadata.json",
        seed: || br#"{"sharded_backend": "torch_dist", "sharded_backend_version": 1}"#.to_vec(),
        beside: &["iter_0000100/common.pt", "iter_0000100/.metadata", "latest_checkpointed_iteration.txt"],
    },
    Tree {
        file: "step-100/.metadata",
        seed: || include_bytes!("../../../../testdata/readers/checkpoint.metadata").to_vec(),
        beside: &["step-100/__0_0.distcp", "step-100/__1_0.distcp"],
    },
    Tree {
        file: "latest",
        seed: || b"global_step100".to_vec(),
        beside: &[
            "global_step100/mp_rank_00_model_states.pt",
            "global_step100/zero_pp_rank_0_mp_rank_00_optim_states.pt",
        ],
    },
    Tree {
        file: "100/default/manifest.ocdbt",
        seed: manifest,
        beside: &["100/_CHECKPOINT_METADATA", "100/default/d/0"],
    },
    Tree {
        file: "100/_CHECKPOINT_METADATA",
        seed: || br#"{"item_handlers": {}, "commit_timestamp_nsecs": 1795000000000000000}"#.to_vec(),
        beside: &["100/default/manifest.ocdbt", "100/default/_METADATA"],
    },
    Tree {
        file: "checkpoint-100/model.safetensors.index.json",
        seed: || {
            br#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "../x", "c": "model.safetensors"}}"#
                .to_vec()
        },
        beside: &["checkpoint-100/config.json", "checkpoint-100/model-00001-of-00002.safetensors"],
    },
    Tree {
        file: "checkpoint-100/trainer_state.json",
        seed: || br#"{"global_step": 100, "log_history": [{"loss": NaN}]}"#.to_vec(),
        beside: &["checkpoint-100/config.json", "checkpoint-100/model.safetensors"],
    },
    Tree {
        file: "checkpoint-100/model.safetensors",
        seed: || include_bytes!("../../../../testdata/readers/model.safetensors").to_vec(),
        beside: &["checkpoint-100/config.json"],
    },
];

/// Which file, then its bytes.
pub fn trees() -> Vec<Vec<u8>> {
    TREES.iter().zip(0..).map(|(tree, number)| [vec![number], (tree.seed)()].concat()).collect()
}

/// Whatever one file of a checkpoint holds, a look ends, and says of each checkpoint what it is and why.
pub fn look(data: &[u8]) {
    let Some((number, bytes)) = data.split_first() else { return };
    let tree = &TREES[usize::from(*number) % TREES.len()];
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    tree.beside.iter().for_each(|name| put(name, b"100"));
    put(tree.file, bytes);
    let pace = Pace { settle: Duration::ZERO, patience: Duration::ZERO };
    let mut scanner = Scanner::new(&[folder.path().to_path_buf()], pace).unwrap();
    let begin = monotonic();
    for seconds in [0, 100] {
        let wall = Timestamp { seconds: Timestamp::now().seconds + seconds, nanos: 0 };
        let look = scanner.look(begin + Duration::from_secs(seconds.unsigned_abs()), wall, &|_| false);
        for checkpoint in &look.checkpoints {
            assert!(checkpoint.directories().all(|directory| directory.starts_with(real(folder.path()))));
            assert!(checkpoint.state.reason().is_none_or(|reason| reason.len() < 1 << 20));
        }
    }
}

fn real(path: &Path) -> std::path::PathBuf {
    path.canonicalize().unwrap()
}

fn manifest() -> Vec<u8> {
    part([0x0c, 0xdb, 0x3a, 0x2a])
}

fn part(magic: [u8; 4]) -> Vec<u8> {
    let length = (HEAD_BYTES + 50 + FOOT_BYTES) as u64;
    let content = [&magic[..], &length.to_le_bytes(), &[0, 1], &[1; 50]].concat();
    let checksum = crc32c::crc32c(&content).to_le_bytes();
    [content, checksum.to_vec()].concat()
}

/// Parts alone, and one behind another with something between.
pub fn stores() -> Vec<Vec<u8>> {
    let nodes = [part([0x0c, 0xdb, 0x12, 0x34]), b"a value, and \x0c\xdb".to_vec(), part([0x0c, 0xdb, 0x20, 0xde])];
    vec![manifest(), nodes.concat()]
}

/// What is found lies within the bytes and is what it says; a manifest is whole in one length only.
pub fn parts(data: &[u8]) {
    if let Some((place, part)) = ocdbt::find(data) {
        let head = data[place..].first_chunk().unwrap();
        assert_eq!(ocdbt::part(head), Some(part));
        assert!(part.length >= (HEAD_BYTES + FOOT_BYTES) as u64);
        assert!(place == 0 || ocdbt::find(&data[..place]).is_none());
    }
    if ocdbt::is_whole_manifest(data) {
        assert!(!ocdbt::is_whole_manifest(&data[..data.len() - 1]));
    }
}

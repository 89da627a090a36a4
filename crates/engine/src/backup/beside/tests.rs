//! Which files belong together, and what they are to each other.

use super::*;
use crate::readers::{Format, Tensor, View};

fn key(path: &str) -> TreeKey {
    TreeKey::from_path(Path::new(path)).unwrap()
}

#[test]
fn a_checkpoint_is_a_folder_or_what_lies_in_folders_of_a_step() {
    for (path, expected) in [
        ("/r/checkpoint-100/model.safetensors", "/r/checkpoint-100"),
        ("/r/checkpoint-100/global_step100/a.pt", "/r/checkpoint-100"),
        ("/r/checkpoint-100/optimizer/0.distcp", "/r/checkpoint-100"),
        ("/r/iter_0000100/mp_rank_00/distrib_optim.pt", "/r/iter_0000100"),
        ("/epoch-2/checkpoint-100/model.safetensors", "/epoch-2/checkpoint-100"),
        ("/r/step-10/iter-010/model.pt", "/r/step-10"),
        ("/r/model/weights.pt", "/r/model"),
        ("/weights.pt", "/"),
    ] {
        assert_eq!(folder(&key(path)).to_path(), Path::new(expected), "{path}");
    }
}

#[test]
fn ranks_are_ordered_by_their_numbers() {
    let mut names = ["zero_10_b", "zero_2_b", "zero_2_a", "zero_010_c", "alone", "zero_"];
    names.sort_by_key(|name| by_number(name.as_bytes()));
    assert_eq!(names, ["alone", "zero_", "zero_2_a", "zero_2_b", "zero_10_b", "zero_010_c"]);
}

#[test]
fn a_file_of_few_fp32_numbers_is_one_of_casts() {
    for (fp32, bf16, kind) in [
        (0, 0, Kind::Other),
        (10, 0, Kind::Masters),
        (0, 10, Kind::Casts),
        (100, 400, Kind::Masters),
        (100, 500, Kind::Casts),
        (300, 100, Kind::Masters),
    ] {
        let tensor = |(dtype, count, start): (Dtype, u64, u64)| Tensor {
            name: String::new(),
            dtype,
            shape: vec![count],
            view: View::Own,
            range: start..start + count * u64::from(dtype.width()),
        };
        let sizes = [(Dtype::F32, fp32, 0), (Dtype::Bf16, bf16, 4 * fp32), (Dtype::F64, 7, 4 * fp32 + 2 * bf16)];
        let tensors = sizes.into_iter().filter(|(_, count, _)| *count > 0).map(tensor).collect();
        let (checks, boundaries) = (Vec::new(), Vec::new());
        let layout =
            Layout { format: Format::Safetensors, tensors, checks, boundaries, left_out: 0, strided: Vec::new() };
        assert_eq!(Kind::of(&layout), kind, "{fp32} and {bf16}");
    }
}

//! Comparing: each kind of break is told, a step of training is not, and rows are matched by name.

use crate::readers::{Dtype, Tensor, View};
use crate::statistics::Statistics;
use crate::statistics::compare::{Break, compare, rows};
use crate::statistics::table::{TensorRecord, TensorTable};

/// Numbers as a layer has them: about normal, of deviation 0.02, every time the same.
fn weights(count: usize) -> Vec<f32> {
    let mut state = 5_u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..12).map(|_| next()).sum::<f32>() * 0.02).collect()
}

fn record(name: &str, values: &[f32]) -> TensorRecord {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = Tensor {
        name: name.into(),
        dtype: Dtype::F32,
        shape: vec![values.len() as u64],
        view: View::Own,
        range: 0..bytes.len() as u64,
    };
    TensorRecord { statistics: Statistics::of(Dtype::F32, &bytes), tensor }
}

fn table(tensors: Vec<TensorRecord>) -> TensorTable {
    TensorTable { tensors, left_out: 0 }
}

fn codes(old: &[f32], new: &[f32]) -> String {
    let findings = compare(&table(vec![record("t", old)]), &table(vec![record("t", new)]));
    assert!(findings.iter().all(|finding| finding.tensor == "t"));
    findings.iter().map(|finding| finding.what.code()).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_break_is_told() {
    let old = weights(4096);
    let with = |change: &dyn Fn(&mut Vec<f32>)| {
        let mut new = old.clone();
        change(&mut new);
        new
    };
    let scaled = |factor: f32| with(&|new| new.iter_mut().for_each(|value| *value *= factor));
    for (case, new, expected) in [
        ("nothing", old.clone(), ""),
        ("a step", with(&|new| new.iter_mut().enumerate().for_each(|(at, it)| *it += (at % 7) as f32 * 1e-4)), ""),
        ("a NaN", with(&|new| new[77] = f32::NAN), "nan"),
        ("an infinity", with(&|new| new[77] = f32::NEG_INFINITY), "infinite"),
        ("all zero", vec![0.0; 4096], "all-zero"),
        ("all one number", vec![0.5; 4096], "constant"),
        ("a block of zeros", with(&|new| new[512..1024].fill(0.0)), "zeros"),
        ("a 204th of zeros", with(&|new| new[512..532].fill(0.0)), "zeros"),
        ("few zeros", with(&|new| new[512..522].fill(0.0)), ""),
        // The highest bit of the exponent.
        ("a flipped bit", with(&|new| new[5] = f32::from_bits(new[5].to_bits() ^ 1 << 30)), "norm magnitude"),
        ("half as large", scaled(0.5), ""),
        ("much larger", scaled(1024.0), "norm magnitude distribution"),
        ("much smaller", scaled(1.0 / 1024.0), "norm distribution"),
    ] {
        assert_eq!(codes(&old, &new), expected, "{case}");
    }
    assert_eq!(codes(&[0.5; 4096], &[0.25; 4096]), "", "one number was another");
    assert_eq!(codes(&[0.5; 4096], &old), "distribution", "and numbers came");
    let sparse = with(&|new| new[..1024].fill(0.0));
    assert_eq!(codes(&sparse, &with(&|new| new[..2048].fill(0.0))), "", "rows of an embedding");
    let broken = with(&|new| new[77] = f32::NAN);
    assert_eq!(codes(&broken, &broken), "", "a NaN that was there is no news");
    assert_eq!(codes(&broken, &old), "", "nor is one that is gone");
    let lost = |count: usize, value: f32| with(&|new| new[100..100 + count].fill(value));
    for (value, code, word) in [(f32::NAN, "nan", "NaN"), (f32::INFINITY, "infinite", "infinite")] {
        // Of 4096 elements a hundredth is 41.
        for (before, now, expected) in
            [(1, 41, ""), (1, 42, code), (1, 3900, code), (60, 119, ""), (60, 120, code), (60, 60, ""), (120, 60, "")]
        {
            assert_eq!(codes(&lost(before, value), &lost(now, value)), expected, "{before} to {now}");
        }
        let told =
            |before: &[f32]| compare(&table(vec![record("t", before)]), &table(vec![record("t", &lost(50, value))]));
        assert_eq!(told(&lost(7, value))[0].what.to_string(), format!("50 elements are {word}; there were 7"));
        assert_eq!(told(&old)[0].what.to_string(), format!("50 elements are {word}; there was none"));
    }
    assert_eq!(codes(&vec![0.0; 4096], &old), "", "an optimizer's first step");
    assert_eq!(codes(&[1.0], &[0.0]), "", "a scalar may be anything");
    assert_eq!(codes(&[1.0], &[f32::NAN]), "nan", "but a number");
}

/// Squares move twice as far by exponent; an embedding's moments come row by row, and fade.
#[test]
fn an_optimizer_may_begin() {
    let told = |name: &str, old: &[f32], new: &[f32]| {
        let findings = compare(&table(vec![record(name, old)]), &table(vec![record(name, new)]));
        findings.iter().map(|finding| finding.what.code()).collect::<Vec<_>>().join(" ")
    };
    let old: Vec<f32> = weights(4096).iter().map(|value| value * value).collect();
    let scaled = |factor: f32| old.iter().map(|value| value * factor).collect::<Vec<f32>>();
    let (grown, broken) = (scaled(200.0), scaled(8192.0));
    for name in ["optimizer.state.3.exp_avg_sq", "w.max_exp_avg_sq", "state/0/nu/dense/kernel", "square_avg"] {
        assert_eq!(told(name, &old, &grown), "", "{name}");
        assert_eq!(told(name, &old, &broken), "norm magnitude distribution", "{name}");
    }
    for name in ["optimizer.state.3.exp_avg", "menu", "state.mu.dense", "exp_avg_square"] {
        assert_eq!(told(name, &old, &grown), "norm magnitude distribution", "{name}");
    }
    let rows = |from: usize, factor: f32| {
        let mut rows = weights(4096);
        rows[..from].iter_mut().for_each(|value| *value *= factor);
        rows
    };
    let begun = [&rows(0, 0.0)[..64], &vec![0.0; 4032]].concat();
    let faded: Vec<f32> = rows(4096, 1e-4);
    assert_eq!(told("emb.exp_avg", &begun, &faded), "", "other rows");
    assert_eq!(told("emb.exp_avg", &begun, &begun.iter().map(|it| it * 1e-4).collect::<Vec<_>>()), "norm distribution");
}

#[test]
fn integers_may_jump() {
    let record = |values: &[i64]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (shape, range) = (vec![values.len() as u64], 0..bytes.len() as u64);
        let tensor = Tensor { name: "t".into(), dtype: Dtype::I64, shape, view: View::Own, range };
        table(vec![TensorRecord { statistics: Statistics::of(Dtype::I64, &bytes), tensor }])
    };
    assert_eq!(compare(&record(&[1; 100]), &record(&[1 << 50; 100])), []);
    let zeros = compare(&record(&[1; 100]), &record(&[0; 100]));
    assert_eq!(zeros.iter().map(|finding| finding.what.code()).collect::<Vec<_>>(), ["all-zero"]);
}

#[test]
fn tensors_are_matched_by_name() {
    let values = weights(128);
    let named = |name: &str| record(name, &values);
    let old = table(vec![named("a"), named("twice"), named("gone"), named("twice"), record("shape", &values[1..])]);
    let new = table(vec![named("twice"), named("new"), named("a"), named("twice"), named("shape")]);
    let shown = |old: &TensorTable, new: &TensorTable| {
        let row = |row: crate::statistics::compare::Row<'_>| {
            let codes: Vec<&str> = row.findings.iter().map(Break::code).collect();
            format!("{}{}{}:{}", row.name, u8::from(row.old.is_some()), u8::from(row.new.is_some()), codes.join(" "))
        };
        rows(Some(old), new).into_iter().map(row).collect::<Vec<_>>()
    };
    let expected = ["twice11:", "new01:appeared", "a11:", "twice11:", "shape11:reshaped", "gone10:vanished"];
    assert_eq!(shown(&old, &new), expected);
    // Of a table that is not whole nothing is new or gone.
    let part = |table: &TensorTable| TensorTable { left_out: 1, ..table.clone() };
    let expected = ["twice11:", "new01:", "a11:", "twice11:", "shape11:reshaped", "gone10:"];
    assert_eq!(shown(&part(&old), &part(&new)), expected);
    assert!(rows(None, &new).iter().all(|row| row.old.is_none() && row.findings.is_empty() && row.drift.is_none()));
}

#[test]
fn drift_says_how_far() {
    let old = weights(4096);
    let new: Vec<f32> = old.iter().map(|value| value * 2.0).collect();
    let (old, new) = (table(vec![record("t", &old)]), table(vec![record("t", &new)]));
    let drift = rows(Some(&old), &new)[0].drift.unwrap();
    assert_eq!((drift.norm, drift.distance), (Some(1.0), Some(1.0)));
    let still = rows(Some(&old), &old)[0].drift.unwrap();
    assert_eq!((still.norm, still.distance), (Some(0.0), Some(0.0)));
}

/// What can't be held against older numbers may not be full of NaN unnoticed; masks have infinities from the first.
#[test]
fn nan_in_a_new_tensor_is_told() {
    let values = weights(256);
    let with = |value: f32| [&[value], &values[1..]].concat();
    let found = |old: Vec<TensorRecord>, values: &[f32]| {
        let findings = compare(&table(old), &table(vec![record("t", values)]));
        findings.iter().map(|finding| finding.what.code()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(found(vec![], &values), "appeared");
    assert_eq!(found(vec![], &with(f32::INFINITY)), "appeared");
    assert_eq!(found(vec![], &with(f32::NAN)), "appeared nan");
    assert_eq!(found(vec![record("t", &values[1..])], &with(f32::NAN)), "reshaped nan");
    assert_eq!(found(vec![record("t", &with(f32::NAN)[..200])], &with(f32::NAN)), "reshaped");
}

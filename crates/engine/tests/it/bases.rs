//! Whoever reads a whole repository back fetches and decodes a base once, however many chunks are encoded against it.

use std::fs;

use seawall_engine::format::names::PACKS;
use seawall_engine::monitor::Silent;
use seawall_engine::store::Store;
use seawall_engine::units::MIB;
use seawall_engine::verify::{Read, VerifyOptions, verify};

use crate::place::{assert_restores, options, paths};
use crate::tensor_files::{model, run_with, stepped, weights};
use crate::tensors::Scene;

#[test]
fn a_full_check_gets_every_byte_of_the_packs_once() {
    let scene = Scene::new();
    let first = (weights(1, 1_500_000), weights(2, 384));
    let mut ratios = Vec::new();
    let mut root = None;
    for step in 1..=4 {
        let name = format!("step-{step}.safetensors");
        let bytes = if step == 1 { first.0.clone() } else { stepped(&first.0, step) };
        scene.write(&name, &model(&bytes, &first.1, &name));
        let report = run_with(&scene.repository, options(paths(&scene.source(""))));
        ratios.push(report.bytes_stored as f64 / bytes.len() as f64);
        root = report.snapshot.map(|snapshot| snapshot.root);
    }
    assert!(ratios[1..].iter().all(|&ratio| ratio < 0.6), "they are encoded against the first: {ratios:?}");
    let mut length = 0;
    scene.store.list(PACKS, &mut |info| length += info.length).unwrap();

    // Trees are read first, by their nodes. That is little beside the data.
    for threads in [1, 3] {
        scene.store.taken();
        let options = VerifyOptions { read: Read::All, record: false, threads, budget_bytes: 512 * MIB };
        let report = verify(&scene.repository, &options, &Silent).unwrap();
        assert_eq!((report.damage, report.bytes_read), (vec![], length));
        let (_, bytes) = scene.store.taken();
        assert!(bytes < length + length / 20, "{bytes} bytes were got of {length}, with {threads} threads");
    }
    let target = tempfile::tempdir().unwrap();
    assert_restores(&scene.repository, &root.unwrap(), &scene.source(""), &target.path().join("out"));
    assert_eq!(fs::read_dir(scene.source("")).unwrap().count(), 4);
}

//! What every [`Store`] must do, as one suite that each store's tests run.
//!
//! It is compiled with the crate, so that stores in other crates run the same suite; nothing but tests calls it. It
//! asserts: a failure is a panic that says which promise is broken. What needs a crash or a full disk to show is tested
//! store by store.

use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{Created, Store, StoreError};
use crate::units::MIB;

/// Runs the whole suite; `make` gives a new, empty store each time.
///
/// # Panics
/// When the store breaks a promise.
pub fn check(make: &dyn Fn() -> Box<dyn Store>) {
    bytes_come_back(&*make());
    ranges_are_clipped(&*make());
    names_are_checked(&*make());
    missing_is_said(&*make());
    create_never_replaces(&*make());
    put_never_replaces(&*make());
    one_racer_wins(&*make());
    lists_by_prefix(&*make());
    lists_while_used(&*make());
    delete_is_idempotent(&*make());
    nothing_partial_is_seen(&*make());
}

/// `length` bytes without a short period, so that a piece in the wrong place shows.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn bytes_come_back(store: &dyn Store) {
    for (index, length) in [0, 1, 4096, 4 * MIB, 4 * MIB + 1, 20 * MIB].into_iter().enumerate() {
        let bytes = pattern(length);
        for name in [format!("pack/put{index}/0000"), format!("log/create{index}")] {
            if name.starts_with("pack") {
                store.put(&name, &bytes).expect("put stores");
            } else {
                assert_eq!(store.create(&name, &bytes).expect("create stores"), Created::Created);
            }
            assert!(store.get(&name, None).expect("what was stored is there") == bytes, "{name}: {length} bytes");
            let info = store.head(&name).expect("what was stored is there");
            assert_eq!((info.name.as_str(), info.length), (name.as_str(), length as u64));
            assert!(info.modified.seconds > 1_500_000_000, "{name}: the store gives the time of writing");
        }
    }
}

fn ranges_are_clipped(store: &dyn Store) {
    let bytes = pattern(10_000);
    store.put("pack/a", &bytes).expect("put stores");
    store.put("pack/empty", b"").expect("put stores");
    let cases: [(Range<u64>, Range<usize>); 9] = [
        (0..10_000, 0..10_000),
        (0..1, 0..1),
        (9_999..10_000, 9_999..10_000),
        (17..4_242, 17..4_242),
        (5..5, 0..0),
        (9_000..20_000, 9_000..10_000),
        (10_000..10_001, 0..0),
        (50_000..60_000, 0..0),
        (1..u64::MAX, 1..10_000),
    ];
    for (asked, given) in cases {
        let got = store.get("pack/a", Some(asked.clone())).expect("a range beyond the end is no error");
        assert!(got == bytes[given], "range {asked:?}");
    }
    assert_eq!(store.get("pack/empty", Some(0..10)).expect("an empty object is an object"), b"");
    assert_eq!(store.get("pack/empty", None).expect("an empty object is an object"), b"");
}

fn names_are_checked(store: &dyn Store) {
    let long = "a".repeat(300);
    let deep = ["a"; 100].join("/");
    for name in [
        "", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "../a", "A", "a b", "a\0", "ä", "a.b", "a-b", "a\\b", &long,
        &deep,
    ] {
        let refused = |result: Result<(), StoreError>, verb| {
            assert!(matches!(result, Err(StoreError::BadName(_))), "{verb} of {name:?}: {result:?}");
        };
        refused(store.put(name, b"x"), "put");
        refused(store.create(name, b"x").map(drop), "create");
        refused(store.get(name, None).map(drop), "get");
        refused(store.head(name).map(drop), "head");
        refused(store.delete(name), "delete");
    }
    for prefix in ["a", "/", "..", "../", "a//", "A/", "a/b"] {
        let listed = store.list(prefix, &mut |_| {});
        assert!(matches!(listed, Err(StoreError::BadName(_))), "list of {prefix:?}: {listed:?}");
    }
    assert_eq!(listed(store, ""), [""; 0], "a refused name leaves nothing");
}

fn missing_is_said(store: &dyn Store) {
    store.put("pack/a/b", b"x").expect("put stores");
    for name in ["none", "pack", "pack/a", "pack/b", "pack/a/c", "pack/a/b/c"] {
        assert!(matches!(store.get(name, None), Err(StoreError::Missing(_))), "get of {name}");
        assert!(matches!(store.get(name, Some(0..1)), Err(StoreError::Missing(_))), "get of {name}");
        assert!(matches!(store.head(name), Err(StoreError::Missing(_))), "head of {name}");
    }
}

fn create_never_replaces(store: &dyn Store) {
    assert_eq!(store.create("log/1", b"first").expect("create stores"), Created::Created);
    for bytes in [&b"other"[..], b"first", b""] {
        assert_eq!(store.create("log/1", bytes).expect("create answers"), Created::AlreadyThere);
    }
    assert_eq!(store.get("log/1", None).expect("it is there"), b"first");
    store.delete("log/1").expect("delete works");
    assert_eq!(store.create("log/1", b"next").expect("create stores"), Created::Created);
    assert_eq!(store.get("log/1", None).expect("it is there"), b"next");
}

fn put_never_replaces(store: &dyn Store) {
    store.put("pack/1", b"first").expect("put stores");
    store.put("pack/1", b"first").expect("a repeated put is no error");
    assert!(store.put("pack/1", b"other").is_err(), "put over other bytes");
    assert_eq!(store.get("pack/1", None).expect("it is there"), b"first");
}

fn one_racer_wins(store: &dyn Store) {
    const RACERS: usize = 8;
    for round in 0..25 {
        let name = format!("log/{round:020}");
        let start = Barrier::new(RACERS);
        let race = |racer: u8| {
            start.wait();
            store.create(&name, &[racer; 1000]).expect("create answers") == Created::Created
        };
        let won: Vec<bool> = thread::scope(|scope| {
            let race = &race;
            let racers: Vec<_> = (0..RACERS as u8).map(|racer| scope.spawn(move || race(racer))).collect();
            racers.into_iter().map(|racer| racer.join().expect("no racer panics")).collect()
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}: one winner");
        let winner = won.iter().position(|won| *won).expect("counted above") as u8;
        assert_eq!(store.get(&name, None).expect("it is there"), [winner; 1000], "round {round}: the winner's bytes");
    }
}

/// The names below a prefix, sorted; no name twice.
fn listed(store: &dyn Store, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    store.list(prefix, &mut |info| names.push(info.name)).expect("list works");
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "no name is listed twice");
    names
}

fn lists_by_prefix(store: &dyn Store) {
    assert_eq!(listed(store, ""), [""; 0], "a new store is empty");
    let names = ["index/a/0", "log/0", "log/1", "log0/1", "pack/a/0", "pack/a/1", "pack/ab/0", "seawall"];
    for (length, name) in names.iter().enumerate() {
        store.put(name, &vec![0; length]).expect("put stores");
    }
    let mut lengths = Vec::new();
    store.list("", &mut |info| lengths.push((info.name, info.length))).expect("list works");
    lengths.sort();
    let expected: Vec<(String, u64)> =
        names.iter().zip(0..).map(|(name, length)| ((*name).to_owned(), length)).collect();
    assert_eq!(lengths, expected);
    let cases: [(&str, &[&str]); 6] = [
        ("log/", &["log/0", "log/1"]),
        ("pack/", &["pack/a/0", "pack/a/1", "pack/ab/0"]),
        ("pack/a/", &["pack/a/0", "pack/a/1"]),
        ("none/", &[]),
        ("pack/none/", &[]),
        ("seawall/", &[]),
    ];
    for (prefix, expected) in cases {
        assert_eq!(listed(store, prefix), expected, "prefix {prefix:?}");
    }
}

fn lists_while_used(store: &dyn Store) {
    for number in 0..100 {
        store.put(&format!("pack/{number}"), b"x").expect("put stores");
    }
    store.list("pack/", &mut |info| store.delete(&info.name).expect("delete works")).expect("list works");
    assert_eq!(listed(store, "pack/"), [""; 0], "the callback may delete what it is shown");
}

fn delete_is_idempotent(store: &dyn Store) {
    store.put("pack/a/0", b"x").expect("put stores");
    store.put("pack/a/1", b"y").expect("put stores");
    for name in ["pack/a/0", "pack/a/0", "pack/none", "none", "pack", "pack/a", "pack/a/1/x"] {
        store.delete(name).expect("deleting what is not there succeeds");
    }
    assert_eq!(listed(store, ""), ["pack/a/1"]);
    store.put("pack/a/0", b"z").expect("a name is free again after delete");
}

fn nothing_partial_is_seen(store: &dyn Store) {
    const OBJECTS: usize = 6;
    let bytes = pattern(8 * MIB);
    let done = AtomicBool::new(false);
    let name = |number: usize| format!("pack/s/{number}");
    thread::scope(|scope| {
        scope.spawn(|| {
            // Why: the flag is set also where a put panics, or the reader below would never end.
            let stored = (0..OBJECTS).try_for_each(|number| store.put(&name(number), &bytes));
            done.store(true, Ordering::Release);
            stored.expect("put stores");
        });
        let mut finished = false;
        while !finished {
            finished = done.load(Ordering::Acquire);
            for number in 0..OBJECTS {
                match store.get(&name(number), None) {
                    Ok(seen) => assert!(seen == bytes, "object {number} is seen with {} bytes", seen.len()),
                    Err(StoreError::Missing(_)) => break,
                    Err(error) => panic!("reading while writing: {error}"),
                }
            }
            let mut seen = Vec::new();
            store.list("pack/", &mut |info| seen.push(info)).expect("list works");
            assert!(seen.iter().all(|info| info.length == bytes.len() as u64), "listed while writing: {seen:?}");
        }
    });
    assert_eq!(listed(store, "").len(), OBJECTS);
}

//! Rules for training runs, in tables.
//!
//! A snapshot is written as its labels: `1000 loss=0.3` is step 1000 of run `r`; `-` begins one without run and step,
//! `?` one of run `r` without step. They come a minute apart.

use super::*;

/// The snapshot with these labels, `number` minutes after midnight.
fn labelled(number: u64, text: &str) -> Candidate {
    let mut words = text.split(' ');
    let first = words.next().unwrap();
    let mut candidate = honest(number, at("2026-11-20 00:00") + number as i64 * MINUTE_MS);
    let mut label = |name: &str, value: &str| candidate.labels.push((name.to_owned(), value.to_owned()));
    if first != "-" {
        label(RUN, "r");
    }
    if first != "-" && first != "?" {
        label(STEP, first);
    }
    for word in words {
        let (name, value) = word.split_once('=').unwrap();
        label(if name == "state" { STATE } else { name }, value);
    }
    if first != "-" {
        candidate.group = Group::of_run(b"member", b"host", b"r");
    }
    candidate
}

fn run(snapshots: &[&str]) -> Vec<Candidate> {
    (1..).zip(snapshots).map(|(number, text)| labelled(number, text)).collect()
}

/// Those that stay are these, as `number: reasons`.
fn check_run(snapshots: &[&str], text: &str, expected: &[&str]) {
    assert_eq!(kept(&run(snapshots), &rules(text), 0), expected, "{text}: {snapshots:?}");
}

#[test]
fn every_so_many_steps_the_first_at_or_after_a_multiple_stays() {
    let even = ["500", "1000", "1500", "2000", "2500"];
    let multiples = ["1: every 1000 steps: first from 0", "2: every 1000 steps: 1000", "4: every 1000 steps: 2000"];
    check_run(&even, "every 1000", &[&multiples[..], &["5: newest of its group"]].concat());
    let odd = ["990", "1010", "1900", "3100", "3050"];
    let expected = [
        "1: every 1000 steps: first from 0",
        "2: every 1000 steps: first from 1000",
        "5: every 1000 steps: first from 3000",
    ];
    check_run(&odd, "every 1000", &expected);
    let all = ["18446744073709551615", "0"];
    check_run(&all, "every 1", &["1: every 1 steps: 18446744073709551615", "2: every 1 steps: 0"]);
}

#[test]
fn the_last_steps_are_those_with_the_highest_numbers() {
    // 900 came last, as where a run was taken up again from an early step: the newest of a group always stays.
    let came = ["1000", "3000", "2000", "900"];
    check_run(&came, "steps 2", &["2: last steps", "3: last steps", "4: newest of its group"]);
    check_run(&came[..3], "steps 1", &["2: last steps", "3: newest of its group"]);
    check_run(&came[..2], "steps all", &["1: last steps", "2: last steps"]);
    // As numbers, not as texts.
    check_run(&["0900", "1000"], "steps 1", &["2: last steps"]);
    check_run(&["1000", "0900", "9999"], "steps 2", &["1: last steps", "3: last steps"]);
    // Of a step that was stored again, the newest counts, and once.
    check_run(&["1000", "2000", "1000", "3000"], "steps 3", &["2: last steps", "3: last steps", "4: last steps"]);
}

#[test]
fn the_best_are_told_by_a_label() {
    let losses = ["1000 loss=0.5", "2000 loss=3e-1", "3000 loss=0.30", "4000 loss=0.9", "5000"];
    let newest = "5: newest of its group";
    check_run(&losses, "lowest 1 loss", &["3: best loss 0.30", newest]);
    check_run(&losses, "lowest 2 loss", &["2: best loss 3e-1", "3: best loss 0.30", newest]);
    check_run(&losses, "highest 1 loss", &["4: best loss 0.9", newest]);
    let all = ["1: best loss 0.5", "2: best loss 3e-1", "3: best loss 0.30", "4: best loss 0.9", newest];
    check_run(&losses, "highest all loss", &all);
    // What is no finite number takes no part.
    let odd = ["1 loss=nan", "2 loss=-inf", "3 loss=", "4 loss=-0.5", "5 loss=low", "6 loss=7"];
    check_run(&odd, "lowest 3 loss", &["4: best loss -0.5", "6: best loss 7"]);
    // The same step again: its newest value counts.
    check_run(
        &["1 loss=0.1", "1 loss=0.9", "2 loss=0.5", "3"],
        "lowest 1 loss",
        &["3: best loss 0.5", "4: newest of its group"],
    );
    // Without steps, and without a run.
    check_run(&["? loss=2", "? loss=1", "? loss=3"], "lowest 1 loss", &["2: best loss 1", "3: newest of its group"]);
    let by_hand = ["- loss=2", "- loss=1", "- other=1", "- loss=3"];
    check_run(&by_hand, "lowest 1 loss", &["2: best loss 1", "3: of no run", "4: newest of its group"]);
}

#[test]
fn distances_from_the_newest_step_double() {
    let steps: Vec<String> = (0..=21).map(|step: u64| step.to_string()).collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    // Blocks before those of step 21, of 1, 2, 4, 8 and 16 steps, begin at 20, 18, 16, 8 and 0.
    let expected = [
        "1: log-spaced: first of 16 before",
        "9: log-spaced: first of 8 before",
        "17: log-spaced: first of 4 before",
        "19: log-spaced: first of 2 before",
        "21: log-spaced: first of 1 before",
        "22: log-spaced: newest step",
    ];
    check_run(&steps, "log", &expected);
    let thousands = ["1000", "2000", "3000", "4000", "5000", "6000", "7000", "8000"];
    let expected = [
        "1: log-spaced: first of 4096 before",
        "5: log-spaced: first of 2048 before",
        "7: log-spaced: first of 1024 before",
        "8: log-spaced: newest step",
    ];
    check_run(&thousands, "log", &expected);
    check_run(&["0"], "log", &["1: log-spaced: newest step"]);
    let far = ["0", "9223372036854775808", "18446744073709551615"];
    let expected = [
        "1: log-spaced: first of 9223372036854775808 before",
        "2: log-spaced: first of 4611686018427387904 before",
        "3: log-spaced: newest step",
    ];
    check_run(&far[..2], "log", &[expected[0], "2: log-spaced: newest step"]);
    // 2^63 is the first of the block [2^63, 2^63 + 2^62), just before that of 2^64 - 1.
    check_run(&far, "log", &expected);
}

#[test]
fn rules_are_added_up() {
    let steps = ["1000 loss=0.1", "2000 loss=0.7", "3000 loss=0.8", "4000 loss=0.9"];
    let expected = [
        "1: every 2000 steps: first from 0, best loss 0.1",
        "2: every 2000 steps: 2000",
        "4: every 2000 steps: 4000, last steps",
    ];
    check_run(&steps, "steps 1, lowest 1 loss, every 2000", &expected);
    check_run(&steps, "last 1, lowest 1 loss", &["1: best loss 0.1", "4: last"]);
    check_run(
        &steps,
        "daily 7, lowest 1 loss",
        &["1: daily 2026-11-20 (oldest), best loss 0.1", "4: daily 2026-11-20"],
    );
}

#[test]
fn runs_are_counted_apart() {
    let mut both = run(&["1", "2", "3", "4"]);
    let others = [
        Group::of_run(b"member", b"host", b"other"),
        Group::of_run(b"member", b"other", b"r"),
        Group::of_run(b"other", b"host", b"r"),
    ];
    for other in others {
        both[0].group = other.clone();
        both[1].group = other;
        assert_eq!(kept(&both, &rules("steps 1"), 0), ["2: last steps", "4: last steps"]);
    }
}

#[test]
fn what_the_rules_can_not_judge_stays() {
    let odd = ["x1", "-5", "1.5", "18446744073709551616", "+7", "", "?", "10", "20"];
    let mut expected: Vec<String> =
        (1..=6).map(|number| format!("{number}: step {:?} is no number", odd[number - 1])).collect();
    let by_steps = ["7: no step", "9: last steps"].map(str::to_owned);
    assert_eq!(kept(&run(&odd), &rules("steps 1"), 0), [&expected[..], &by_steps[..]].concat());
    // A rule by a metric asks for no step; but what is written as a step and is none may be a mistake.
    expected.push("9: newest of its group".to_owned());
    let mut measured = run(&odd);
    measured[7].labels.push(("loss".to_owned(), "1".to_owned()));
    expected.insert(6, "8: best loss 1".to_owned());
    assert_eq!(kept(&measured, &rules("lowest 1 loss"), 0), expected);
    // Other rules judge them as ever.
    check_run(&odd, "last 1", &["9: last"]);
    // What is of no run is left alone, unless there are rules for it.
    let mixed = ["-", "- tag=1", "1", "-"];
    check_run(&mixed, "steps 1", &["1: of no run", "2: of no run", "3: last steps", "4: of no run"]);
    check_run(&mixed, "steps 1, last 1", &["3: last, last steps", "4: last"]);
}

#[test]
fn a_metric_that_nothing_has_removes_nothing() {
    let steps = ["1 loss=1", "2 loss=2"];
    let (first, second) = ("1: none of its group has los", "2: none of its group has los");
    check_run(&steps, "lowest 1 los", &[first, second]);
    check_run(&steps, "lowest 1 los, steps 1", &["2: last steps"]);
    // Groups that have it are judged by it, others stay.
    let mut two = run(&["1 loss=1", "2 loss=2", "3", "4"]);
    (2..4).for_each(|place| two[place].group = Group::of_run(b"member", b"host", b"other"));
    let expected =
        ["1: best loss 1", "2: newest of its group", "3: none of its group has loss", "4: none of its group has loss"];
    assert_eq!(kept(&two, &rules("lowest 1 loss"), 0), expected);
}

/// A step has several snapshots where they are of different things, or where what came later is not the whole.
#[test]
fn of_a_step_no_thing_is_put_out_by_another_or_by_less() {
    let pair = ["100", "100", "200", "200"];
    let of = |things: [&str; 4], files: [u64; 4], bytes: [u64; 4]| {
        let mut all = run(&pair);
        for (number, candidate) in all.iter_mut().enumerate() {
            candidate.thing = things[number].as_bytes().to_vec();
            (candidate.files, candidate.bytes) = (files[number], bytes[number]);
        }
        all
    };
    let last = |numbers: &[u64]| numbers.iter().map(|number| format!("{number}: last steps")).collect::<Vec<_>>();
    let (one, same, whole) = (["a"; 4], [5; 4], [1000; 4]);
    for (things, files, bytes, expected) in [
        (one, same, whole, &[4][..]),
        (["netG", "netD", "netG", "netD"], same, whole, &[3, 4]),
        (one, [5, 5, 5, 4], whole, &[3, 4]),
        (one, [5, 5, 4, 5], whole, &[4]),
        (one, same, [1000, 1000, 1000, 899], &[3, 4]),
        (one, same, [1000, 1000, 1000, 900], &[4]),
    ] {
        assert_eq!(
            kept(&of(things, files, bytes), &rules("steps 1"), 0),
            last(expected),
            "{things:?} {files:?} {bytes:?}"
        );
    }
    let every = kept(&of(["netG", "netD", "netG", "netD"], same, whole), &rules("every 100"), 0);
    assert_eq!(every.len(), 4, "{every:?}");
    // A step counts once, whatever it has.
    let mut all = of(["netG", "netD", "netG", "netD"], same, whole);
    all.iter_mut().zip(["3", "3", "1", "2"]).for_each(|(one, loss)| one.labels.push(("loss".into(), loss.into())));
    assert_eq!(kept(&all, &rules("lowest 1 loss"), 0), ["3: best loss 1", "4: best loss 2"]);
}

/// What is damaged may heal: it stays as if it were sound, and so does what would stay without it.
#[test]
fn damaged_snapshots_take_nobodys_place() {
    let mut all = run(&["100", "200", "300"]);
    all[1].is_damaged = true;
    assert_eq!(kept(&all, &rules("steps 2"), 0), ["1: last steps", "2: last steps", "3: last steps"]);
    all[2].is_damaged = true;
    assert_eq!(kept(&all, &rules("steps 1"), 0), ["1: last steps", "3: last steps"]);
    let mut again = run(&["100", "100"]);
    again[1].is_damaged = true;
    assert_eq!(kept(&again, &rules("every 100"), 0), ["1: every 100 steps: 100", "2: every 100 steps: 100"]);
}

#[test]
fn incomplete_checkpoints_take_no_place() {
    let torn = ["1", "2", "3 loss=0 state=incomplete", "4 loss=1 state=complete", "5 state=incomplete"];
    check_run(&torn, "steps 2", &["2: last steps", "4: last steps"]);
    check_run(&torn, "every 3", &["1: every 3 steps: first from 0", "4: every 3 steps: first from 3"]);
    check_run(&torn, "lowest 1 loss", &["4: best loss 1"]);
    let spaced = ["1: log-spaced: first of 4 before", "2: log-spaced: first of 2 before", "4: log-spaced: newest step"];
    check_run(&torn, "log", &spaced);
    // Rules for all snapshots count them by themselves: they keep some, and none gives way to them.
    check_run(&torn, "last 1", &["4: last", "5: last"]);
    check_run(&torn, "tag x", &["4: newest of its group"]);
    // Where there is nothing else, they are better than nothing.
    check_run(&[torn[2], torn[4]], "steps 1", &["2: last steps"]);
    let mut held = run(&torn);
    held[2].held = true;
    assert_eq!(kept(&held, &rules("steps 1"), 0), ["3: hold", "4: last steps"]);
    // What a repair left of one is incomplete, whatever its state says, and by hand too; of what is no checkpoint nothing is.
    let repaired = ["1", "2", "3 lost-paths=2 state=complete", "4 lost-paths=0", "5 lost-paths=1"];
    check_run(&repaired, "steps 2", &["2: last steps", "4: last steps"]);
    check_run(&["1 state=complete", "1 state=complete lost-paths=1"], "steps 1", &["1: last steps"]);
    check_run(&["-", "- lost-paths=3"], "last 1", &["2: last"]);
    // Forgotten ones are nothing else.
    let mut gone = run(&torn);
    [0, 1, 3].into_iter().for_each(|place| gone[place].forgotten = true);
    assert_eq!(kept(&gone, &rules("steps 1"), 0), ["5: last steps"]);
}

//! A model of the protocol of docs/concurrency.md, searched exhaustively: writers, collectors and an owner over one log and
//! one store, each of which may stall for ever between any two steps.
//!
//! It decides with the real `rules` and the real `rules::State`; what is modelled is the store, the log as a list, and the
//! order in which the actors ask. In each state every chunk that a live snapshot reaches, and each base that it needs, must
//! be readable, and must have a copy in a published segment that is not condemned.
//!
//! Leaving out a rule must break that: the model would not see much otherwise. `cargo xtask model` prints all of it.

mod collector;
mod explore;
mod ledger;
mod names;
mod omit;
mod setups;
mod wander;
mod world;
mod writer;

use explore::{Setup, explore};
use omit::{Rule, Rules};
use wander::wander;

fn check(setup: &Setup) -> usize {
    let explored = explore(setup);
    println!(
        "{}: {} states, {} steps, depth {}, {} logs, {}",
        setup.name,
        explored.states,
        explored.steps,
        explored.depth,
        explored.logs,
        if explored.is_whole { "all there are" } else { "up to the bound" }
    );
    if let Some(violation) = explored.violation {
        panic!("{}: something is lost after\n{violation}", setup.name);
    }
    explored.states
}

#[test]
fn nothing_is_lost_whatever_the_order() {
    let states: usize = setups::ALL.iter().map(check).sum();
    println!("{states} states");
}

fn check_walks(seed: u64, walks: usize) {
    let wandered = wander(&setups::LONG, seed, walks, 120);
    println!("walks with seed {seed}: {walks}, {} steps, up to {} log entries", wandered.steps, wandered.entries);
    if let Some(violation) = wandered.violation {
        panic!("seed {seed}: something is lost after\n{violation}");
    }
}

#[test]
fn nothing_is_lost_on_long_walks() {
    check_walks(1, 10_000);
}

#[test]
#[ignore = "minutes: cargo xtask model --deep"]
fn nothing_is_lost_on_many_long_walks() {
    (2..102).for_each(|seed| check_walks(seed, 20_000));
}

#[test]
fn long_walks_find_what_is_lost_without_rules() {
    for rule in [Rule::LookAgain, Rule::CondemnLooksAgain, Rule::FenceFirst, Rule::ParentIsLive] {
        let setup = Setup { rules: Rules::without(rule), ..setups::LONG };
        let wandered = wander(&setup, 1, 10_000, 120);
        println!("without {rule:?}: after {} steps of random walks", wandered.steps);
        assert!(wandered.violation.is_some(), "{rule:?}");
    }
}

#[test]
#[ignore = "minutes, and some GiB of memory: cargo xtask model --deep"]
fn nothing_is_lost_in_larger_bounds() {
    let states: usize = setups::ALL.iter().map(|setup| check(&setups::deep(setup))).sum();
    println!("{states} states");
}

#[test]
fn each_rule_is_needed() {
    let mut not_found = Vec::new();
    for rule in Rule::ALL {
        let setup = Setup { rules: Rules::without(rule), ..setups::showing(rule) };
        let explored = explore(&setup);
        match explored.violation {
            Some(violation) => println!(
                "without {rule:?} ({}): after {} steps, {} states\n{violation}",
                setup.name,
                violation.trace.len(),
                explored.states
            ),
            None => not_found.push((rule, explored.states, explored.is_whole)),
        }
    }
    assert!(not_found.is_empty(), "nothing is lost without these rules (states, all there are): {not_found:?}");
}

//! `seawall key list`: slots and members.

use jiff::tz::TimeZone;
use seawall_engine::clock::Timestamp;
use seawall_engine::format::slot::SlotKind;
use seawall_engine::keys::{Key, list};
use serde::Serialize;

use crate::moments;
use crate::output::{printable, table};
use crate::run::{Outcome, Run};

/// Digits of an id that a table shows.
const ID_DIGITS: usize = 8;

/// List the keys: who may open the repository, and as what
///
/// LAST is the newest entry in the log that the key signed; keys that only read leave none. Times are those that the
/// writer claims. A removed key stays in the list, with the entry that revoked it.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Leave out keys that were removed
    #[arg(long)]
    pub usable: bool,
}

/// A key in JSON.
#[derive(Serialize)]
struct KeyLine<'a> {
    label: &'a str,
    role: Option<&'a str>,
    kind: Option<String>,
    slot: Option<String>,
    member: Option<String>,
    created: Option<String>,
    admitted: Option<u64>,
    revoked: Option<u64>,
    last_entry: Option<u64>,
    last_time: Option<String>,
    own: bool,
    usable: bool,
    /// True if its slot is not the one that the log names.
    damaged: bool,
    /// True if a rotation of the data key can reach it.
    granted: bool,
}

impl Arguments {
    /// Lists them.
    ///
    /// # Errors
    /// When the repository can't be opened or the output written.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let repository = run.open()?;
        let mut keys = list(&repository)?;
        keys.retain(|key| !self.usable || key.is_usable());
        let heads = ["SLOT", "LABEL", "ROLE", "OPENS WITH", "CREATED", "ADMITTED", "LAST", "STATE"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for key in &keys {
            run.output.record("key", line(key))?;
            rows.push(row(key, &run.zone));
        }
        for line in table(&rows, &[5]) {
            run.output.line(line)?;
        }
        Outcome::done(serde_json::json!({ "keys": keys.len() }))
    }
}

fn kind(key: &Key) -> Option<String> {
    key.slot.as_ref().map(|(_, info)| match info.kind {
        SlotKind::Shares { needed, count, .. } => format!("{needed} of {count} shares"),
        kind => kind.name().to_owned(),
    })
}

fn claimed(ms: i64) -> Timestamp {
    let nanos = u32::try_from(ms.rem_euclid(1000)).unwrap_or(0) * 1_000_000;
    Timestamp { seconds: ms.div_euclid(1000), nanos }
}

fn line(key: &Key) -> KeyLine<'_> {
    let created = |seconds| moments::rfc3339(Timestamp { seconds, nanos: 0 });
    KeyLine {
        label: key.label(),
        role: key.role().map(seawall_engine::format::slot::Role::name),
        kind: kind(key),
        slot: key.slot.as_ref().map(|(id, _)| id.to_string()),
        member: key.member.as_ref().map(|(id, _)| id.to_string()),
        created: key.slot.as_ref().map(|(_, info)| created(info.created_seconds)),
        admitted: key.member.as_ref().map(|(_, member)| member.admitted),
        revoked: key.revoked(),
        last_entry: key.last_entry.map(|(number, _)| number),
        last_time: key.last_entry.map(|(_, ms)| moments::rfc3339(claimed(ms))),
        own: key.is_own,
        usable: key.is_usable(),
        damaged: key.is_damaged,
        granted: key.member.as_ref().is_some_and(|(_, member)| member.record.wrap_public.is_some()),
    }
}

fn row(key: &Key, zone: &TimeZone) -> Vec<String> {
    let none = || "-".to_owned();
    let slot = key.slot.as_ref().map_or_else(none, |(id, _)| id.to_string()[..ID_DIGITS].to_owned());
    let created =
        key.slot.as_ref().map(|(_, info)| moments::show(Timestamp { seconds: info.created_seconds, nanos: 0 }, zone));
    let last = key.last_entry.map(|(number, ms)| format!("entry {number}, {}", moments::show(claimed(ms), zone)));
    let state = match (key.revoked(), &key.slot) {
        (Some(number), _) => format!("revoked by entry {number}"),
        (None, _) if key.is_damaged => "its slot is damaged".to_owned(),
        (None, None) => "has no slot in the store".to_owned(),
        (None, Some(_)) if key.member.is_none() => "the log names no member for it".to_owned(),
        (None, Some(_)) if key.is_own => "usable (this one)".to_owned(),
        (None, Some(_)) => "usable".to_owned(),
    };
    vec![
        slot,
        printable(key.label().as_bytes()),
        key.role().map_or_else(none, |role| role.name().to_owned()),
        kind(key).unwrap_or_else(none),
        created.unwrap_or_else(none),
        key.member.as_ref().map_or_else(none, |(_, member)| format!("entry {}", member.admitted)),
        last.unwrap_or_else(none),
        state,
    ]
}

//! Every node of every snapshot's tree, each read once however many snapshots share it, by all threads from one stack.
//!
//! A node is held against what the node above says of it (first key, range, level, totals), and every chunk that an
//! entry refers to must be in the index with the length that the entry gives it. A node that is met again under another
//! parent that says the same is not read again. What is below a node is checked whatever the node above says of it: a
//! snapshot that names another's nodes wrongly hides nothing of that one. Chunks are not read here.
//!
//! Memory: 24 bytes a node, and the nodes on the stack (the children of one node a level and thread).

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::findings::describe;
use super::structure::Structure;
use super::{Check, count, on_threads};
use crate::entry::{Content, Entry, Extent, Kind, TableRef, TreeKey};
use crate::error::Result;
use crate::format::segment::Location;
use crate::repo::Snapshot;
use crate::repo::nodes::{Below, NodeReader, NodeRef};

/// Checks the trees of `snapshots`.
pub(super) fn check_trees(check: &Check<'_>, structure: &Structure, snapshots: &[Snapshot]) -> Result<()> {
    let stack = Stack::default();
    // Why reversed: the newest snapshot is on top of the stack, and its nodes are most likely to be asked for.
    let roots = snapshots.iter().map(|snapshot| NodeRef::root(&snapshot.record.root));
    stack.push(roots.filter_map(|root| stack.admit(root)).collect());
    on_threads(check.threads(), || {
        let mut worker = Worker { check, structure, reader: NodeReader::new(check.repository) };
        let outcome = stack.run(&mut |node| worker.node(node, &stack));
        if outcome.is_err() {
            stack.close();
        }
        outcome
    })
}

/// Nodes that wait, and those that were met.
#[derive(Default)]
struct Stack {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    waiting: Vec<NodeRef>,
    /// Threads that work on a node and may push more.
    busy: usize,
    closed: bool,
    /// First half of the id of each node met, and a hash of what the parent said of it.
    met: HashSet<([u8; 16], u64)>,
}

impl Stack {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the node back if nobody said the same of it before.
    fn admit(&self, node: NodeRef) -> Option<NodeRef> {
        let half: [u8; 16] = *node.id.0.first_chunk().expect("an id has 32 bytes");
        let is_new = self.lock().met.insert((half, said_of(&node)));
        is_new.then_some(node)
    }

    fn push(&self, nodes: Vec<NodeRef>) {
        self.lock().waiting.extend(nodes);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Works on nodes until none waits and nobody can push more.
    fn run(&self, work: &mut dyn FnMut(&NodeRef) -> Result<()>) -> Result<()> {
        let mut inner = self.lock();
        loop {
            if inner.closed {
                return Ok(());
            }
            match inner.waiting.pop() {
                Some(node) => {
                    inner.busy += 1;
                    drop(inner);
                    let outcome = work(&node);
                    inner = self.lock();
                    inner.busy -= 1;
                    if inner.busy == 0 {
                        self.changed.notify_all();
                    }
                    outcome?;
                }
                None if inner.busy == 0 => return Ok(()),
                None => inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// A hash of what a parent says of a node; 0 for a root. Only compared within one run.
fn said_of(node: &NodeRef) -> u64 {
    if node.level.is_none() {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    (node.level, &node.first, node.totals).hash(&mut hasher);
    hasher.finish().max(1)
}

struct Worker<'a, 'r> {
    check: &'a Check<'r>,
    structure: &'a Structure,
    reader: NodeReader<'r>,
}

impl Worker<'_, '_> {
    fn node(&mut self, node: &NodeRef, stack: &Stack) -> Result<()> {
        self.check.go_on()?;
        match self.structure.find(&node.id) {
            None => {
                self.structure.unlisted(self.check, node.id);
                return Ok(());
            }
            // Nothing of it lies elsewhere. The finding is the session's; the chunks in its packs are counted later, all at once.
            Some(location) if self.structure.lost_sessions.contains(&location.pack.session) => return Ok(()),
            // The structure's check has told.
            Some(Location { base: Some(base), .. }) if self.structure.index.locate(&base).is_none() => return Ok(()),
            Some(_) => {}
        }
        let Some(below) = self.read(node) else { return Ok(()) };
        self.check.nodes.fetch_add(1, Ordering::Relaxed);
        if let Err(damaged) = node.check_totals(&below) {
            self.check.findings.chunk(&node.object(), damaged.why, node.id);
        }
        match below {
            Below::Nodes(nodes) => {
                stack.push(nodes.into_iter().filter_map(|below| stack.admit(below)).collect());
            }
            Below::Entries(entries) => {
                self.check.entries.fetch_add(count(entries.len()), Ordering::Relaxed);
                entries.iter().for_each(|(key, entry)| self.entry(node, key, entry));
                self.check.progress();
            }
        }
        Ok(())
    }

    /// What lies below a node; none where it can't be read.
    fn read(&mut self, node: &NodeRef) -> Option<Below> {
        let error = match self.reader.read(node) {
            Ok(below) => return Some(below),
            Err(error) => error,
        };
        if error.is_damage()
            && let Ok(below) = self.reader.read(&NodeRef::root(&node.id))
        {
            // The node is sound, and what is said of it in this tree is wrong. Another tree may have it rightly.
            self.check.findings.object(&node.object(), describe(&error).1);
            return Some(below);
        }
        self.check.unreadable(&node.object(), &error, node.id);
        None
    }

    /// Checks what an entry refers to.
    fn entry(&self, node: &NodeRef, key: &TreeKey, entry: &Entry) {
        let Kind::File(content) = &entry.kind else { return };
        let length = match content {
            Content::Inline(bytes) => Some(count(bytes.len())),
            Content::Extents(extents) => {
                let lengths = extents.iter().map(|extent| self.extent(extent));
                Some(lengths.fold(0, u64::saturating_add))
            }
            Content::Indirect { id, length, .. } => self.indirect(content, &Extent::Chunk { id: *id, length: *length }),
        };
        if length.is_some_and(|length| length != entry.size) {
            let what = format!("{} is not as long as its content", key.to_path().display());
            self.check.findings.chunk(&node.object(), what, node.id);
        }
        if let Some(TableRef { id, length }) = entry.table {
            self.extent(&Extent::Chunk { id, length });
        }
    }

    /// Length of an indirect content; none where its lists can't be read.
    fn indirect(&self, content: &Content, top: &Extent) -> Option<u64> {
        self.extent(top);
        let Extent::Chunk { id, .. } = top else { return None };
        self.structure.find(id)?;
        let mut sum = 0u64;
        for extent in self.check.repository.extents(content) {
            match extent {
                Ok(extent) => sum = sum.saturating_add(self.extent(&extent)),
                Err(error) => {
                    self.check.unreadable(&format!("extent list {id}"), &error, *id);
                    return None;
                }
            }
        }
        Some(sum)
    }

    /// Looks an extent's chunk up; gives the extent's length.
    fn extent(&self, extent: &Extent) -> u64 {
        if let Extent::Chunk { id, length } = extent {
            match self.structure.find(id) {
                None => self.structure.unlisted(self.check, *id),
                Some(location) if location.plain_len != *length => {
                    let what = "it is not as long as the files say that have it";
                    self.check.findings.chunk(&format!("chunk {id}"), what, *id);
                }
                Some(_) => {}
            }
        }
        extent.length()
    }
}

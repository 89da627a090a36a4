//! torch.save and TorchScript: a zip of stored members, `<stem>/data/<k>` with the numbers, `<stem>/data.pkl` with what
//! they mean.
//!
//! The pickle is read by [`super::pickle`], which runs nothing. Its persistent ids name storages (class, key, length);
//! calls of torch's rebuild functions name tensors in them. A tensor's name is the path to it, dictionary keys joined
//! by dots. Parts of a storage that no tensor covers are given under the member's own name, so a pickle that can't be
//! read costs names, shapes and kinds only. TorchScript has a second pair, `constants.pkl` and `constants/<k>`.
//!
//! Not read: files from before torch 1.6, which are no zips, and compressed members.

mod views;

use std::collections::HashMap;
use std::ops::Range;

use super::dtype::Dtype;
use super::input::Input;
use super::layout::{Builder, View as Shown};
use super::pickle::Pickle;
use super::zip::Entry;
use views::{View, Views};

/// Each pickle, and the folder whose members it names.
const PICKLES: [(&str, &str); 2] = [("data.pkl", "data/"), ("constants.pkl", "constants/")];

/// The beginning of all members' names, with its slash, if these are the members of a torch file.
pub(super) fn stem(entries: &[Entry]) -> Option<&str> {
    let mut stems = entries.iter().filter_map(|entry| entry.name.strip_suffix(PICKLES[0].0));
    stems.find(|stem| stem.ends_with('/') && stem.matches('/').count() == 1)
}

/// Adds the tensors of one archive.
pub(super) fn read(input: &Input, stem: &str, entries: &[Entry], builder: &mut Builder) {
    let find = |name: &str| {
        let entry = entries.iter().find(|entry| entry.name.strip_prefix(stem) == Some(name))?;
        entry.content.clone()
    };
    let order = find("byteorder").and_then(|range| input.bytes(range, 16));
    let big_endian = order.as_deref() == Some(b"big");
    for (pickle, folder) in PICKLES {
        let pickle = find(pickle).and_then(|range| Pickle::read(input.stream(range)?));
        let mut views = pickle.map(|pickle| Views::of(&pickle)).unwrap_or_default();
        let members = entries.iter().filter_map(|entry| {
            let key = entry.name.strip_prefix(stem)?.strip_prefix(folder)?;
            Some((key, entry.content.clone()?))
        });
        for (key, content) in members {
            let storage = views.take(key);
            let name = format!("{folder}{key}");
            Storage { name: &name, content, dtype: storage.dtype, big_endian }.add(storage.views, input, builder);
        }
    }
}

/// One member with numbers.
struct Storage<'a> {
    name: &'a str,
    content: Range<u64>,
    dtype: Dtype,
    big_endian: bool,
}

impl Storage<'_> {
    /// Adds its tensors as they lie, and what is between them. Of views that overlap, the first stays, as in the builder;
    /// the others, and what does not lie as its program sees it, are added by their strides.
    fn add(&self, mut views: Vec<View>, input: &Input, builder: &mut Builder) {
        let mut at = self.content.start;
        views.sort_by_key(|view| (view.start, std::cmp::Reverse(view.end)));
        for view in views {
            let place = |offset: u64| self.content.start.checked_add(offset).filter(|&end| end <= self.content.end);
            let (Some(start), Some(end)) = (place(view.start), place(view.end)) else { continue };
            let is_first = start >= at && end > start;
            if let Some((shape, strides)) = view.own.as_ref().filter(|_| !is_first || view.shown != Shown::Own) {
                builder.strided(&view.name, self.kind(view.dtype), shape, strides, input.start() + start);
            }
            if is_first {
                self.rest(at..start, input, builder);
                builder.view(view.shown, &view.name, self.kind(view.dtype), &view.shape, input.start() + start);
                at = end;
            }
        }
        self.rest(at..self.content.end, input, builder);
    }

    /// A part that no tensor covers.
    fn rest(&self, range: Range<u64>, input: &Input, builder: &mut Builder) {
        let bytes = range.end.saturating_sub(range.start);
        let dtype = self.kind(self.dtype);
        let (dtype, count) = match bytes.is_multiple_of(dtype.width().into()) {
            true => (dtype, bytes / u64::from(dtype.width()) * u64::from(dtype.block_elements())),
            false => (Dtype::Unknown, bytes),
        };
        builder.view(Shown::Rest, self.name, dtype, &[count], input.start() + range.start);
    }

    fn kind(&self, dtype: Dtype) -> Dtype {
        match dtype.width() {
            width @ 2..=16 if self.big_endian => Dtype::Width(width as u8),
            _ => dtype,
        }
    }
}

/// What a pickle says of one storage.
struct Described {
    dtype: Dtype,
    views: Vec<View>,
}

impl Default for Described {
    fn default() -> Self {
        Self { dtype: Dtype::Unknown, views: Vec::new() }
    }
}

/// Storages by key.
type Storages = HashMap<String, Described>;

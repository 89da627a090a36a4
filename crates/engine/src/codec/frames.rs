//! zstd frames: one frame in, one frame out, with every parameter under our control.
//!
//! Frames carry their content size and no checksum (the chunk's id is the checksum). Contexts are kept and used again.
//! A prefix is the exception: zstd's binding ties a prefix to the context's lifetime, so a frame with a prefix takes a
//! fresh context; its allocation is under a tenth of the time that such a frame takes.
//!
//! Invariant: [`decompress`] writes nothing outside the slice it is given and fills it exactly, or fails.

use std::io::Cursor;

use zstd_safe::{CCtx, CParameter, DCtx, DParameter, ParamSwitch, ResetDirective, Strategy};

/// Largest window that a frame may ask for: 2^24 is 16 MiB, base and plain bytes at their limits together.
const WINDOW_LOG_MAX: u32 = 24;

/// How to compress one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings {
    /// zstd's level, which the other fields refine.
    pub level: i32,
    /// Match search; `None` leaves what the level says.
    pub search: Option<Search>,
    /// Huffman codes for literals even where zstd would guess that they do not pay.
    pub huffman: bool,
}

/// zstd's search parameters; zero keeps what the level says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Search {
    /// The match finder.
    pub strategy: Strategy,
    /// log2 of the first table's entries.
    pub hash_log: u32,
    /// log2 of the second table's (or the chain's) entries.
    pub chain_log: u32,
    /// Shortest match to look for.
    pub min_match: u32,
}

impl Settings {
    /// What zstd calls that level.
    pub const fn level(level: i32) -> Self {
        Self { level, search: None, huffman: false }
    }

    /// Order-0 Huffman coding and no matches: a step so wide that hardly a position is looked at. Why the least tables: they
    /// are cleared for each frame.
    pub const HUFFMAN: Self = Self {
        level: -1000,
        search: Some(Search { strategy: Strategy::ZSTD_fast, hash_log: 6, chain_log: 6, min_match: 7 }),
        huffman: true,
    };

    fn apply(&self, context: &mut CCtx<'_>) -> Result<(), usize> {
        context.set_parameter(CParameter::CompressionLevel(self.level))?;
        if self.huffman {
            context.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Enable))?;
        }
        if let Some(search) = &self.search {
            context.set_parameter(CParameter::Strategy(search.strategy))?;
            context.set_parameter(CParameter::HashLog(search.hash_log))?;
            context.set_parameter(CParameter::ChainLog(search.chain_log))?;
            context.set_parameter(CParameter::MinMatch(search.min_match))?;
        }
        Ok(())
    }
}

/// Makes frames. One per thread.
pub(super) struct Compressor {
    context: CCtx<'static>,
}

impl Compressor {
    pub(super) fn new() -> Self {
        Self { context: CCtx::create() }
    }

    /// Appends one frame of `plain` to `out` and gives its length; `None`, with `out` as it was, if zstd fails
    /// (it has no reason to but a lack of memory).
    pub(super) fn compress(&mut self, settings: &Settings, plain: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        self.context.reset(ResetDirective::SessionAndParameters).ok()?;
        settings.apply(&mut self.context).ok()?;
        append(&mut self.context, plain, out)
    }
}

/// As [`Compressor::compress`], with `prefix` as the bytes that come before.
pub(super) fn compress_with_prefix(
    settings: &Settings,
    prefix: &[u8],
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Option<usize> {
    let mut context = CCtx::try_create()?;
    settings.apply(&mut context).ok()?;
    let reach = (prefix.len() + plain.len()).max(1024);
    let window_log = usize::BITS - (reach - 1).leading_zeros();
    context.set_parameter(CParameter::WindowLog(window_log)).ok()?;
    context.ref_prefix(prefix).ok()?;
    append(&mut context, plain, out)
}

fn append(context: &mut CCtx<'_>, plain: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let start = out.len();
    out.reserve(zstd_safe::compress_bound(plain.len()));
    let mut target = Cursor::new(&mut *out);
    target.set_position(start as u64);
    match context.compress2(&mut target, plain) {
        Ok(length) => Some(length),
        Err(_) => {
            out.truncate(start);
            None
        }
    }
}

/// Opens frames. One per thread.
pub(super) struct Decompressor {
    context: DCtx<'static>,
}

impl Decompressor {
    pub(super) fn new() -> Self {
        Self { context: DCtx::create() }
    }

    /// Decodes exactly one frame, which must fill `out` exactly.
    ///
    /// # Errors
    /// What is wrong with the frame, in words.
    pub(super) fn decompress(&mut self, frame: &[u8], out: &mut [u8]) -> Result<(), &'static str> {
        decompress(&mut self.context, frame, out)
    }
}

/// As [`Decompressor::decompress`], with `prefix` as the bytes that come before.
pub(super) fn decompress_with_prefix(prefix: &[u8], frame: &[u8], out: &mut [u8]) -> Result<(), &'static str> {
    let mut context = DCtx::try_create().ok_or("no memory for a zstd context")?;
    context.ref_prefix(prefix).map_err(zstd_safe::get_error_name)?;
    decompress(&mut context, frame, out)
}

fn decompress(context: &mut DCtx<'_>, frame: &[u8], out: &mut [u8]) -> Result<(), &'static str> {
    match zstd_safe::get_frame_content_size(frame) {
        Ok(Some(length)) if length == out.len() as u64 => {}
        Ok(_) => return Err("the frame's content size is not the one announced"),
        Err(_) => return Err("not a zstd frame"),
    }
    if zstd_safe::find_frame_compressed_size(frame).map_err(zstd_safe::get_error_name)? != frame.len() {
        return Err("bytes after the zstd frame");
    }
    context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(zstd_safe::get_error_name)?;
    let length = context.decompress(out, frame).map_err(zstd_safe::get_error_name)?;
    if length == out.len() { Ok(()) } else { Err("the frame is shorter than announced") }
}

//! Writing a large file past the page cache (O_DIRECT), from pieces that begin and end anywhere.
//!
//! A direct write takes whole blocks of the file from aligned memory. [`Blocks`] cuts pieces at block bounds and keeps the
//! parts of a block until its last one has come; [`Scratch`] is the aligned memory, one for each thread. What stays in
//! [`Blocks`] at the end (the last block of a file, a block that lies partly in a hole) is written through the cache, once
//! no direct write is under way. So no block is ever written in both ways.
//!
//! Why direct: the kernel's copy into the page cache, and finding memory for it, cost more than all decoding. Why not for
//! small files: they are likely to be read soon, and the cache gathers their writes.

use std::collections::HashMap;
use std::os::fd::AsFd;

use rustix::io::Errno;

use crate::units::MIB;

/// Shorter files go through the page cache.
pub(super) const DIRECT_FILE_BYTES_MIN: u64 = 8 * MIB as u64;
/// Offset, length and memory of a direct write are multiples of this; no common disk asks for more.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Unfinished blocks of one file. A file with more (many tiny holes) goes on through the cache.
const UNFINISHED_MAX: usize = 1024;
/// Most bytes that one direct write has.
const SCRATCH_BYTES: usize = 2 * MIB;

type Block = Box<[u8; BLOCK_BYTES]>;

/// The parts of blocks that wait for their other parts.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// By number: the block, zero where nothing came yet, and how many bytes came.
    unfinished: HashMap<u64, (Block, usize)>,
}

/// Whole blocks in a row.
#[derive(Debug)]
pub(super) struct Run<'p> {
    /// Where they go, in bytes.
    pub(super) offset: u64,
    front: Option<Block>,
    middle: &'p [u8],
    back: Option<Block>,
}

impl Run<'_> {
    /// The bytes, in order.
    pub(super) fn parts(&self) -> [&[u8]; 3] {
        [part(self.front.as_ref()), self.middle, part(self.back.as_ref())]
    }
}

fn part(block: Option<&Block>) -> &[u8] {
    block.map_or(&[], |block| &block[..])
}

impl Blocks {
    /// Takes a piece that goes to `offset` bytes, and gives the whole blocks that are complete with it. No byte of the
    /// file may come twice.
    pub(super) fn cut<'p>(&mut self, piece: &'p [u8], offset: u64) -> Run<'p> {
        let inside = place_in_block(offset);
        let (head, rest) = piece.split_at(if inside == 0 { 0 } else { piece.len().min(BLOCK_BYTES - inside) });
        let (middle, tail) = rest.split_at(rest.len() - rest.len() % BLOCK_BYTES);
        let after_head = offset + head.len() as u64;
        let front = self.put(head, offset);
        let back = self.put(tail, after_head + middle.len() as u64);
        let offset = if front.is_some() { offset - inside as u64 } else { after_head };
        Run { offset, front, middle, back }
    }

    /// Adds bytes to a block; gives it if it is complete now.
    fn put(&mut self, bytes: &[u8], offset: u64) -> Option<Block> {
        if bytes.is_empty() {
            return None;
        }
        let (number, inside) = (offset / BLOCK_BYTES as u64, place_in_block(offset));
        let (block, filled) = self.unfinished.entry(number).or_insert_with(|| (Box::new([0; BLOCK_BYTES]), 0));
        block[inside..inside + bytes.len()].copy_from_slice(bytes);
        *filled += bytes.len();
        if *filled < BLOCK_BYTES { None } else { self.unfinished.remove(&number).map(|(block, _)| block) }
    }

    /// True if so many blocks wait that the file should go through the cache.
    pub(super) fn are_too_many(&self) -> bool {
        self.unfinished.len() > UNFINISHED_MAX
    }

    /// What waits, with its offset, in ascending order: blocks with zeros where nothing came. Nothing waits afterwards.
    pub(super) fn take(&mut self) -> Vec<(u64, Block)> {
        let unfinished = self.unfinished.drain().map(|(number, (block, _))| (number * BLOCK_BYTES as u64, block));
        let mut list: Vec<_> = unfinished.collect();
        list.sort_unstable_by_key(|(offset, _)| *offset);
        list
    }
}

fn place_in_block(offset: u64) -> usize {
    usize::try_from(offset % BLOCK_BYTES as u64).expect("less than a block")
}

/// Aligned memory for direct writes.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Empty until it is needed.
    memory: Vec<u8>,
    start: usize,
}

impl Scratch {
    /// Memory from which every true direct write is refused.
    #[cfg(test)]
    pub(super) fn misaligned() -> Self {
        let mut scratch = Self { memory: vec![0; SCRATCH_BYTES + 2 * BLOCK_BYTES], start: 0 };
        scratch.start = scratch.memory.as_ptr().align_offset(BLOCK_BYTES) + 1;
        scratch
    }

    /// Writes whole blocks past the cache, to a file that was opened for that.
    ///
    /// # Errors
    /// What the system says; [`is_refusal`] tells whether the file system or the disk does not take such a write. Any
    /// part may have been written.
    pub(super) fn write(&mut self, file: impl AsFd, run: &Run<'_>) -> Result<(), Errno> {
        if self.memory.is_empty() {
            self.memory = vec![0; SCRATCH_BYTES + BLOCK_BYTES];
            self.start = self.memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        }
        let aligned = &mut self.memory[self.start..self.start + SCRATCH_BYTES];
        let (mut offset, mut filled) = (run.offset, 0);
        for mut part in run.parts() {
            while !part.is_empty() {
                let length = part.len().min(SCRATCH_BYTES - filled);
                let (now, later) = part.split_at(length);
                aligned[filled..filled + length].copy_from_slice(now);
                (filled, part) = (filled + length, later);
                if filled == SCRATCH_BYTES {
                    write_all(&file, &aligned[..filled], offset)?;
                    (offset, filled) = (offset + filled as u64, 0);
                }
            }
        }
        write_all(&file, &aligned[..filled], offset)
    }
}

/// True if an error only says that direct writes, or such ones, are not to be had.
pub(super) fn is_refusal(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS)
}

/// Writes all bytes to `offset`.
///
/// # Errors
/// What the system says; any part may have been written.
pub(super) fn write_all(file: impl AsFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(&file, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|place| u8::try_from(place % 251).unwrap()).collect()
    }

    /// Cuts `all` at `bounds`, gives the pieces in `order`, and puts together what comes out.
    fn check(bounds: &[usize], order: &[usize]) {
        let all = pattern(*bounds.last().unwrap());
        let (mut blocks, mut back) = (Blocks::default(), vec![0; all.len().next_multiple_of(BLOCK_BYTES)]);
        for &piece in order {
            let (start, end) = (bounds[piece], bounds[piece + 1]);
            let run = blocks.cut(&all[start..end], start as u64);
            let mut place = usize::try_from(run.offset).unwrap();
            for part in run.parts() {
                assert!(part.is_empty() || (place % BLOCK_BYTES, part.len() % BLOCK_BYTES) == (0, 0), "{bounds:?}");
                back[place..place + part.len()].copy_from_slice(part);
                place += part.len();
            }
        }
        let waiting = blocks.take();
        assert!(waiting.len() <= 1, "{bounds:?} in order {order:?}: only the last block has no end");
        for (offset, block) in waiting {
            back[usize::try_from(offset).unwrap()..][..BLOCK_BYTES].copy_from_slice(&block[..]);
        }
        assert!(back[..all.len()] == all && back[all.len()..].iter().all(|&byte| byte == 0), "{bounds:?} {order:?}");
    }

    #[test]
    fn pieces_in_any_order_make_whole_blocks() {
        for bounds in [
            &[0, 4096, 8192, 12_288][..],
            &[0, 1, 4095, 4096, 4097],
            &[0, 100, 200, 300, 4096, 5000],
            &[0, 10_000, 10_001, 20_480, 30_000],
            &[0, 4095, 8191, 12_287, 16_385],
            &[0, 5_000_001, 5_000_002, 9_000_000],
        ] {
            let pieces = bounds.len() - 1;
            let forth: Vec<usize> = (0..pieces).collect();
            let back: Vec<usize> = (0..pieces).rev().collect();
            let crossed: Vec<usize> = (1..pieces).step_by(2).chain((0..pieces).step_by(2)).collect();
            [forth, back, crossed].iter().for_each(|order| check(bounds, order));
        }
    }

    #[test]
    fn many_tiny_holes_are_noticed() {
        let mut blocks = Blocks::default();
        for number in 0..=UNFINISHED_MAX as u64 {
            assert!(!blocks.are_too_many(), "{number}");
            assert!(blocks.cut(b"x", number * BLOCK_BYTES as u64).parts().concat().is_empty());
        }
        assert!(blocks.are_too_many());
        assert_eq!(blocks.take().len(), UNFINISHED_MAX + 1);
        assert!(!blocks.are_too_many());
    }

    #[test]
    fn a_run_longer_than_the_memory_is_written_whole() {
        let file = tempfile::tempfile().unwrap();
        let all = pattern(2 * SCRATCH_BYTES + 3 * BLOCK_BYTES);
        let mut blocks = Blocks::default();
        assert!(blocks.cut(&all[..100], 0).parts().concat().is_empty());
        let run = blocks.cut(&all[100..], 100);
        Scratch::default().write(&file, &run).unwrap();
        let mut back = vec![0; all.len()];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, 0).unwrap();
        assert!(back == all);
    }
}

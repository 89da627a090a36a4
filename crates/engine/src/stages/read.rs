//! Reading regular files: where their data lies, and positioned reads that know a short file from an error.
//!
//! The file's own position is used only to look for holes; content is read at given offsets. A file may change while it
//! is read: nothing here checks that, the caller compares metadata before and after.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{CWD, OFlags, SeekFrom, seek};
use rustix::io::Errno;

use crate::readers::ReadAt;
use crate::stages::walk::open_quietly;

/// An open file as the readers of AI files see it.
pub struct OpenFile<'a> {
    /// The file.
    pub file: &'a File,
    /// Its length in bytes when it was looked at.
    pub length: u64,
}

impl ReadAt for OpenFile<'_> {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match read_at(self.file, offset, buffer)? {
            length if length == buffer.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Opens the regular file at an absolute path once more; a link at its end is not followed.
///
/// # Errors
/// Of opening; [`io::ErrorKind::InvalidInput`] where it is no regular file.
pub fn open_again(path: &Path) -> io::Result<File> {
    let file = File::from(open_quietly(CWD, &CString::new(path.as_os_str().as_bytes())?, OFlags::RDONLY)?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// The ranges of a file that hold data, ascending and not touching each other, up to `size` bytes; between them lie
/// holes. Asks the file system (SEEK_DATA, SEEK_HOLE) as it goes, so it needs no memory however many holes there
/// are; where that is not supported, the whole file is one range. Two calls a range: only worth it where
/// [`super::walk::Stat::may_have_holes`].
///
/// Moves the position of `file`; nobody else may seek it meanwhile.
pub fn data_ranges(file: &File, size: u64) -> DataRanges<'_> {
    DataRanges { file, position: 0, size }
}

/// Iterator over the data of a file, see [`data_ranges`].
#[derive(Debug)]
pub struct DataRanges<'a> {
    file: &'a File,
    position: u64,
    size: u64,
}

impl Iterator for DataRanges<'_> {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        if self.position >= self.size {
            return None;
        }
        let start = match seek(self.file, SeekFrom::Data(self.position)) {
            Ok(start) => start,
            // No data from here to the end.
            Err(Errno::NXIO) => self.size,
            // Not supported, or an error that reading will meet again and report.
            Err(_) => return self.rest(),
        };
        if start >= self.size {
            self.position = self.size;
            return None;
        }
        match seek(self.file, SeekFrom::Hole(start)) {
            // The check guards against a file system that answers nonsense: each range makes progress.
            Ok(end) if end > start => {
                self.position = end.min(self.size);
                Some(start..self.position)
            }
            _ => {
                self.position = start;
                self.rest()
            }
        }
    }
}

impl DataRanges<'_> {
    fn rest(&mut self) -> Option<Range<u64>> {
        let rest = self.position..self.size;
        self.position = self.size;
        Some(rest)
    }
}

/// Fills `buffer` from `offset` on and gives the number of bytes read: less than the buffer holds only where the file
/// ends, so a file that shrank while it was read is told by the count, not by an error.
///
/// # Errors
/// When the system cannot read; what was read before is lost.
pub fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;

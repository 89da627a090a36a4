//! The handles from the target's root down to the present directory.
//!
//! Only the lowest [`OPEN_RUNGS_MAX`] are kept open; on the way back up a closed one is opened again by `..` and
//! taken only if it is the same inode as before. So a tree of any depth needs a bounded number of descriptors, and no
//! path is ever longer than one component.

use std::io;
use std::sync::Arc;

use super::directory::{Directory, Rung};

/// How many levels above the present one stay open.
const OPEN_RUNGS_MAX: usize = 64;

/// Open directories from the root (first) down to the present one (last).
#[derive(Debug)]
pub struct Ladder {
    rungs: Vec<(Rung, Option<Arc<Directory>>)>,
}

impl Ladder {
    /// A ladder with only the root.
    #[must_use]
    pub fn new(root: Arc<Directory>) -> Self {
        Self { rungs: vec![(root.rung(), Some(root))] }
    }

    /// The present directory.
    #[must_use]
    pub fn lowest(&self) -> &Arc<Directory> {
        let (_, handle) = self.rungs.last().expect("the root is never taken off");
        handle.as_ref().expect("the lowest rung is always open")
    }

    /// How many directories there are, the root among them.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.rungs.len()
    }

    /// Goes down into `directory`, which lies in the present one.
    pub fn descend(&mut self, directory: Arc<Directory>) {
        self.rungs.push((directory.rung(), Some(directory)));
        if let Some(above) = self.rungs.len().checked_sub(OPEN_RUNGS_MAX + 1).filter(|&above| above > 0) {
            self.rungs[above].1 = None;
        }
    }

    /// Goes up to the directory above.
    ///
    /// # Errors
    /// When that one is no longer where it was. The ladder stays as it is.
    ///
    /// # Panics
    /// At the root.
    pub fn ascend(&mut self) -> io::Result<()> {
        let above = self.rungs.len().checked_sub(2).expect("nothing lies above the root");
        if self.rungs[above].1.is_none() {
            let reopened = self.lowest().parent_as(self.rungs[above].0)?;
            self.rungs[above].1 = Some(Arc::new(reopened));
        }
        self.rungs.pop();
        Ok(())
    }
}

//! Reading the tensor table of a stored file (docs/format.md §9.1).

use crate::entry::{Entry, TableRef};
use crate::error::{Damaged, Result};
use crate::format::tensor_table;
use crate::repo::repository::Repository;
use crate::statistics::table::TensorTable;

impl Repository {
    /// The tensor table of a file; none where it was stored without.
    ///
    /// # Errors
    /// When the table can't be read or is damaged. The file's content does not depend on it.
    pub fn tensor_table(&self, entry: &Entry) -> Result<Option<TensorTable>> {
        entry.table.as_ref().map(|table| self.read_table(table)).transpose()
    }

    /// The tensor table in a chunk.
    ///
    /// # Errors
    /// As [`Self::tensor_table`].
    pub(crate) fn read_table(&self, table: &TableRef) -> Result<TensorTable> {
        let bytes = self.read_chunk(&table.id)?;
        let named = |error: Damaged| Damaged::new(format!("tensor table {}", table.id), error.offset, error.why);
        Ok(tensor_table::decode(&bytes).map_err(named)?)
    }
}

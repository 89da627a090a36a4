//! The tensor table of a file: which tensors it holds, where, and what their numbers were like when they were read.
//!
//! Plain data; `format::tensor_table` has its bytes. The table is a hint like all that readers find: it says what the
//! backup saw, and decides nothing about the file's content.

use super::Statistics;
use crate::readers::Tensor;

/// No table has more tensors; those behind are left out and counted.
pub const TABLE_TENSORS_MAX: usize = 1 << 16;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorRecord {
    /// Its name, kind, shape and place in the file.
    pub tensor: Tensor,
    /// What its numbers are like; none for kinds without, and where not all of it was seen.
    pub statistics: Option<Statistics>,
}

/// The tensors of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TensorTable {
    /// Ascending by place, disjoint.
    pub tensors: Vec<TensorRecord>,
    /// Tensors that the file has besides, behind those, and that did not fit.
    pub left_out: u64,
}

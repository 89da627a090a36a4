//! Tensors by the shape that their program sees, where a layout's own tensors, which never overlap, can't give it.

use std::ops::Range;

/// A tensor as its program sees it: transposed, with holes, or on numbers that another tensor has as well (tied weights).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strided {
    /// Its name in the file.
    pub name: String,
    /// What its elements are.
    pub dtype: super::Dtype,
    /// Its dimensions as its program has them; none is 0.
    pub shape: Vec<u64>,
    /// How far the next element of each dimension is, in elements; of one that shows numbers more than once 0.
    pub strides: Vec<u64>,
    /// From the first to the last byte that it shows, in the file. Never empty.
    pub range: Range<u64>,
}

impl Strided {
    /// True where its numbers lie in the order of its shape, without holes.
    #[must_use]
    pub fn is_row_major(&self) -> bool {
        row_major(&self.shape, &self.strides)
    }
}

/// Whether the dimensions lie in their own order, without holes. The stride of a dimension of length 1 means nothing.
pub(super) fn row_major(shape: &[u64], strides: &[u64]) -> bool {
    let mut step = Some(1_u64);
    shape.iter().zip(strides).rev().all(|(&length, &stride)| {
        let fits = length == 1 || step == Some(stride);
        step = step.and_then(|step| step.checked_mul(length));
        fits
    })
}

/// How many elements lie from the first to the last that is shown. None where a number is too large.
pub(super) fn span(shape: &[u64], strides: &[u64]) -> Option<u64> {
    let reach =
        |span: u64, (&length, &stride): (&u64, &u64)| span.checked_add(length.checked_sub(1)?.checked_mul(stride)?);
    shape.iter().zip(strides).try_fold(1, reach)
}

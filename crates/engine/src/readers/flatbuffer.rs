//! Flatbuffers, as far as Arrow's footers need them: tables, vectors and texts inside a slice.
//!
//! A table begins with the distance back to its list of field offsets; a field that is not listed has its default.
//! Every place is checked against the slice, and places only ever come from inside it; rings are for the caller to end,
//! by counting depth and number.

/// A table at a place of a buffer.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Elements of one width, or offsets of tables, one after another.
#[derive(Clone, Copy)]
pub(super) struct Vector<'a> {
    bytes: &'a [u8],
    at: usize,
    /// How many; not checked against the buffer.
    pub len: usize,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Follows the offset at a place, which counts from there.
fn follow(bytes: &[u8], at: usize) -> Option<usize> {
    at.checked_add(usize::try_from(u32::from_le_bytes(array(bytes, at)?)).ok()?)
}

impl<'a> Table<'a> {
    /// The table that the buffer is.
    pub fn root(bytes: &'a [u8]) -> Option<Self> {
        Some(Self { bytes, at: follow(bytes, 0)? })
    }

    /// Where a field's value lies.
    fn place(&self, field: usize) -> Option<usize> {
        let back = i32::from_le_bytes(array(self.bytes, self.at)?);
        let list = usize::try_from(i64::try_from(self.at).ok()? - i64::from(back)).ok()?;
        let length = usize::from(u16::from_le_bytes(array(self.bytes, list)?));
        let entry = 4 + 2 * field;
        if entry + 2 > length {
            return None;
        }
        let offset = usize::from(u16::from_le_bytes(array(self.bytes, list.checked_add(entry)?)?));
        (offset != 0).then(|| self.at.checked_add(offset))?
    }

    /// A number of `N` bytes; none when it is the default.
    pub fn scalar<const N: usize>(&self, field: usize) -> Option<[u8; N]> {
        array(self.bytes, self.place(field)?)
    }

    pub fn byte(&self, field: usize) -> u8 {
        self.scalar(field).map_or(0, |[byte]: [u8; 1]| byte)
    }

    pub fn table(&self, field: usize) -> Option<Self> {
        Some(Self { bytes: self.bytes, at: follow(self.bytes, self.place(field)?)? })
    }

    pub fn vector(&self, field: usize) -> Option<Vector<'a>> {
        let at = follow(self.bytes, self.place(field)?)?;
        let len = usize::try_from(u32::from_le_bytes(array(self.bytes, at)?)).ok()?;
        Some(Vector { bytes: self.bytes, at: at + 4, len })
    }

    pub fn text(&self, field: usize) -> Option<&'a str> {
        let vector = self.vector(field)?;
        let end = vector.at.checked_add(vector.len)?;
        std::str::from_utf8(self.bytes.get(vector.at..end)?).ok()
    }
}

impl<'a> Vector<'a> {
    /// The structure of `N` bytes at that place of the vector.
    pub fn fixed<const N: usize>(&self, index: usize) -> Option<[u8; N]> {
        let at = index.checked_mul(N)?.checked_add(self.at)?;
        (index < self.len).then(|| array(self.bytes, at))?
    }

    /// The table at that place of the vector.
    pub fn table(&self, index: usize) -> Option<Table<'a>> {
        let at = index.checked_mul(4)?.checked_add(self.at)?;
        (index < self.len).then_some(())?;
        Some(Table { bytes: self.bytes, at: follow(self.bytes, at)? })
    }
}

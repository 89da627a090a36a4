//! Kinds of numbers: how wide they are, whether they are floats, what they are called.
//!
//! Numbers of less than a byte, and ggml's quantised types, come in blocks: the smallest group of elements that fills
//! whole bytes. So every kind has two figures, elements and bytes of a block, and one element is a block for most.
//! A kind is a hint: the bytes of a tensor may hold anything.

/// What the elements of a tensor are. Numbers are little-endian unless the kind is only a width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754, 64 bits.
    F64,
    /// IEEE 754, 32 bits.
    F32,
    /// IEEE 754, 16 bits.
    F16,
    /// The upper half of [`Dtype::F32`].
    Bf16,
    /// Eight bits: 4 exponent, 3 mantissa, no infinities.
    F8E4m3,
    /// Eight bits: 5 exponent, 2 mantissa.
    F8E5m2,
    /// As [`Dtype::F8E4m3`], with another bias and no negative zero.
    F8E4m3Fnuz,
    /// As [`Dtype::F8E5m2`], with another bias and no negative zero.
    F8E5m2Fnuz,
    /// Eight bits of exponent: the scales of microscaling formats.
    F8E8m0,
    /// Six bits: 2 exponent, 3 mantissa.
    F6E2m3,
    /// Six bits: 3 exponent, 2 mantissa.
    F6E3m2,
    /// Four bits: 2 exponent, 1 mantissa.
    F4,
    /// Signed, 64 bits.
    I64,
    /// Signed, 32 bits.
    I32,
    /// Signed, 16 bits.
    I16,
    /// Signed, 8 bits.
    I8,
    /// Signed, 4 bits.
    I4,
    /// Unsigned, 64 bits.
    U64,
    /// Unsigned, 32 bits.
    U32,
    /// Unsigned, 16 bits.
    U16,
    /// Unsigned, 8 bits.
    U8,
    /// Unsigned, 4 bits.
    U4,
    /// A byte that is 0 or 1.
    Bool,
    /// Two [`Dtype::F16`].
    Complex32,
    /// Two [`Dtype::F32`].
    Complex64,
    /// Two [`Dtype::F64`].
    Complex128,
    /// Blocks of quantised numbers with their scales.
    Block(GgmlType),
    /// So many bytes an element; what they mean is not known (big-endian numbers, records).
    Width(u8),
    /// Not known; an element is taken for a byte.
    Unknown,
}

impl Dtype {
    /// Name, elements of a block, bytes of a block, whether floats.
    fn row(self) -> (&'static str, u32, u32, bool) {
        match self {
            Self::F64 => ("f64", 1, 8, true),
            Self::F32 => ("f32", 1, 4, true),
            Self::F16 => ("f16", 1, 2, true),
            Self::Bf16 => ("bf16", 1, 2, true),
            Self::F8E4m3 => ("f8_e4m3", 1, 1, true),
            Self::F8E5m2 => ("f8_e5m2", 1, 1, true),
            Self::F8E4m3Fnuz => ("f8_e4m3fnuz", 1, 1, true),
            Self::F8E5m2Fnuz => ("f8_e5m2fnuz", 1, 1, true),
            Self::F8E8m0 => ("f8_e8m0", 1, 1, true),
            Self::F6E2m3 => ("f6_e2m3", 4, 3, true),
            Self::F6E3m2 => ("f6_e3m2", 4, 3, true),
            Self::F4 => ("f4", 2, 1, true),
            Self::I64 => ("i64", 1, 8, false),
            Self::I32 => ("i32", 1, 4, false),
            Self::I16 => ("i16", 1, 2, false),
            Self::I8 => ("i8", 1, 1, false),
            Self::I4 => ("i4", 2, 1, false),
            Self::U64 => ("u64", 1, 8, false),
            Self::U32 => ("u32", 1, 4, false),
            Self::U16 => ("u16", 1, 2, false),
            Self::U8 => ("u8", 1, 1, false),
            Self::U4 => ("u4", 2, 1, false),
            Self::Bool => ("bool", 1, 1, false),
            Self::Complex32 => ("c32", 1, 4, true),
            Self::Complex64 => ("c64", 1, 8, true),
            Self::Complex128 => ("c128", 1, 16, true),
            Self::Block(ggml) => {
                let (_, name, elements, bytes) = ggml.row();
                (name, elements, bytes, false)
            }
            Self::Width(bytes) => ("width", 1, u32::from(bytes), false),
            Self::Unknown => ("unknown", 1, 1, false),
        }
    }

    /// Bytes of an element; of a block where elements don't fill whole bytes. Never 0.
    #[must_use]
    pub fn width(self) -> u32 {
        self.row().2.max(1)
    }

    /// Elements that [`Self::width`] bytes hold: 1 but for small and quantised numbers.
    #[must_use]
    pub fn block_elements(self) -> u32 {
        self.row().1
    }

    /// True where elements are floats, or pairs of them.
    #[must_use]
    pub fn is_float(self) -> bool {
        self.row().3
    }

    /// A name for people: lower case, as most formats write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Bytes that `elements` take; none when they don't fill whole blocks, or the product is over 2^64.
    #[must_use]
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        let block = u64::from(self.block_elements());
        elements.is_multiple_of(block).then(|| (elements / block).checked_mul(self.width().into()))?
    }
}

/// A quantised type of ggml (`ggml-common.h`): blocks of so many elements in so many bytes, scales included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GgmlType(u8);

impl GgmlType {
    fn row(self) -> (u32, &'static str, u32, u32) {
        GGML[usize::from(self.0)]
    }

    /// The number that GGUF files have for it.
    #[must_use]
    pub fn id(self) -> u32 {
        self.row().0
    }
}

/// The quantised types: number, name, elements, bytes.
const GGML: [(u32, &str, u32, u32); 26] = [
    (2, "q4_0", 32, 18),
    (3, "q4_1", 32, 20),
    (6, "q5_0", 32, 22),
    (7, "q5_1", 32, 24),
    (8, "q8_0", 32, 34),
    (9, "q8_1", 32, 36),
    (10, "q2_k", 256, 84),
    (11, "q3_k", 256, 110),
    (12, "q4_k", 256, 144),
    (13, "q5_k", 256, 176),
    (14, "q6_k", 256, 210),
    (15, "q8_k", 256, 292),
    (16, "iq2_xxs", 256, 66),
    (17, "iq2_xs", 256, 74),
    (18, "iq3_xxs", 256, 98),
    (19, "iq1_s", 256, 50),
    (20, "iq4_nl", 32, 18),
    (21, "iq3_s", 256, 110),
    (22, "iq2_s", 256, 82),
    (23, "iq4_xs", 256, 136),
    (29, "iq1_m", 256, 56),
    (34, "tq1_0", 256, 54),
    (35, "tq2_0", 256, 66),
    (39, "mxfp4", 32, 17),
    (40, "nvfp4", 64, 36),
    (41, "q1_0", 128, 18),
];

/// The kind that a GGUF file means by `id`; none for numbers that ggml gave up or that are newer than this table.
#[must_use]
pub fn ggml(id: u32) -> Option<Dtype> {
    let plain = match id {
        0 => Dtype::F32,
        1 => Dtype::F16,
        24 => Dtype::I8,
        25 => Dtype::I16,
        26 => Dtype::I32,
        27 => Dtype::I64,
        28 => Dtype::F64,
        30 => Dtype::Bf16,
        _ => {
            let place = GGML.iter().position(|row| row.0 == id)?;
            Dtype::Block(GgmlType(u8::try_from(place).ok()?))
        }
    };
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (dtype, elements, bytes) in [
            (Dtype::F32, 5, Some(20)),
            (Dtype::F4, 6, Some(3)),
            (Dtype::F4, 5, None),
            (Dtype::F6E2m3, 8, Some(6)),
            (Dtype::Complex128, 2, Some(32)),
            (ggml(12).unwrap(), 512, Some(288)),
            (ggml(12).unwrap(), 500, None),
            (Dtype::F64, u64::MAX / 2, None),
            (Dtype::Width(12), 3, Some(36)),
        ] {
            assert_eq!(dtype.bytes_of(elements), bytes, "{dtype:?}");
        }
        assert_eq!((Dtype::Width(0).width(), Dtype::Unknown.width()), (1, 1));
    }

    /// From ggml-common.h: what a block holds, summed up. Half floats have 2 bytes, K blocks 256 elements.
    #[test]
    fn block_bytes_are_the_sums_of_their_fields() {
        for (id, bytes) in [
            (2, 2 + 16),
            (3, 2 + 2 + 16),
            (6, 2 + 4 + 16),
            (7, 2 + 2 + 4 + 16),
            (8, 2 + 32),
            (9, 2 + 2 + 32),
            (10, 256 / 16 + 256 / 4 + 2 + 2),
            (11, 256 / 8 + 256 / 4 + 12 + 2),
            (12, 2 + 2 + 12 + 128),
            (13, 2 + 2 + 12 + 128 + 32),
            (14, 128 + 64 + 16 + 2),
            (15, 4 + 256 + 32),
            (39, 1 + 16),
        ] {
            assert_eq!(ggml(id).unwrap().width(), bytes, "type {id}");
        }
        assert_eq!((ggml(4), ggml(1000)), (None, None));
        assert!(GGML.iter().all(|row| matches!(ggml(row.0), Some(Dtype::Block(block)) if block.id() == row.0)));
        assert!(!ggml(12).unwrap().is_float() && ggml(30).unwrap().is_float());
    }
}

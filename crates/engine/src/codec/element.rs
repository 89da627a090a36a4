//! Elements of numbers as unsigned integers of 1, 2, 4 or 8 bytes, and the exact maps on them that the stored format
//! uses (`docs/format.md` §6.2, §6.2.1).
//!
//! Every map has its inverse beside it, and each pair is a bijection on all bit patterns: NaNs, infinities and negative
//! zeros are patterns as any other. All are without branches, for the compiler to vectorise.

/// An element of `W` bytes, little-endian where it is stored.
pub(super) trait Element<const W: usize>: Copy + Default + Eq {
    /// From stored bytes.
    fn load(bytes: [u8; W]) -> Self;
    /// The stored bytes.
    fn bytes(self) -> [u8; W];
    /// Byte `number`, 0 being the least significant.
    fn byte(self, number: usize) -> u8;
    /// With `byte` added at place `number`, which was zero.
    fn with(self, number: usize, byte: u8) -> Self;
    /// Rotated left by one bit: the sign goes to the bottom, and the exponent of a float stands at the top.
    fn rotated(self) -> Self;
    /// Undoes [`Self::rotated`].
    fn unrotated(self) -> Self;
    /// Of a float's bits the integer that is ordered as the numbers are: negatives are inverted, the others get the top bit.
    fn ordered(self) -> Self;
    /// Undoes [`Self::ordered`].
    fn unordered(self) -> Self;
    /// `self - other` modulo `2^(8 W)`, with the sign at the bottom: 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
    fn distance(self, other: Self) -> Self;
    /// Undoes [`Self::distance`]: what lies so far from `other`.
    fn at_distance(self, other: Self) -> Self;
    /// Eight bits of the rotated element from bit `shift` on; `shift` is less than `8 W`.
    fn key(self, shift: u32) -> u8;
    /// The rotated element from bit `shift` on; that must be less than 31 bits.
    fn level(self, shift: u32) -> i32;
    /// Of an integer its logarithm to the base of two, in quarters, and 508 more; 0 of 0.
    fn size(self) -> i32;
}

macro_rules! element {
    ($type:ty, $signed:ty, $bytes:literal) => {
        impl Element<$bytes> for $type {
            #[inline(always)]
            fn load(bytes: [u8; $bytes]) -> Self {
                Self::from_le_bytes(bytes)
            }
            #[inline(always)]
            fn bytes(self) -> [u8; $bytes] {
                self.to_le_bytes()
            }
            #[inline(always)]
            fn byte(self, number: usize) -> u8 {
                (self >> (8 * number)) as u8
            }
            #[inline(always)]
            fn with(self, number: usize, byte: u8) -> Self {
                self | Self::from(byte) << (8 * number)
            }
            #[inline(always)]
            fn rotated(self) -> Self {
                self.rotate_left(1)
            }
            #[inline(always)]
            fn unrotated(self) -> Self {
                self.rotate_right(1)
            }
            #[inline(always)]
            fn ordered(self) -> Self {
                const TOP: $type = 1 << (<$type>::BITS - 1);
                self ^ (((self as $signed) >> (<$type>::BITS - 1)) as $type | TOP)
            }
            #[inline(always)]
            fn unordered(self) -> Self {
                const TOP: $type = 1 << (<$type>::BITS - 1);
                self ^ (((!self as $signed) >> (<$type>::BITS - 1)) as $type | TOP)
            }
            #[inline(always)]
            fn distance(self, other: Self) -> Self {
                let signed = self.wrapping_sub(other) as $signed;
                (signed << 1 ^ signed >> (<$type>::BITS - 1)) as $type
            }
            #[inline(always)]
            fn at_distance(self, other: Self) -> Self {
                other.wrapping_add(self >> 1 ^ (self & 1).wrapping_neg())
            }
            #[inline(always)]
            fn key(self, shift: u32) -> u8 {
                (self.rotate_left(1) >> shift) as u8
            }
            #[inline(always)]
            fn level(self, shift: u32) -> i32 {
                (self.rotate_left(1) >> shift) as i32
            }
            #[inline(always)]
            fn size(self) -> i32 {
                // Why a float: its exponent, and two bits of the mantissa, are just that.
                ((self as f32).to_bits() >> 21) as i32
            }
        }
    };
}
element!(u8, i8, 1);
element!(u16, i16, 2);
element!(u32, i32, 4);
element!(u64, i64, 8);

/// Calls a function or method that is generic over element and width with those of `$width`, which is 1, 2, 4 or 8.
macro_rules! for_width {
    ($width:expr, $this:ident.$method:ident $arguments:tt) => {
        match $width {
            1 => $this.$method::<u8, 1> $arguments,
            2 => $this.$method::<u16, 2> $arguments,
            4 => $this.$method::<u32, 4> $arguments,
            _ => $this.$method::<u64, 8> $arguments,
        }
    };
    ($width:expr, $function:ident $arguments:tt) => {
        match $width {
            1 => $function::<u8, 1> $arguments,
            2 => $function::<u16, 2> $arguments,
            4 => $function::<u32, 4> $arguments,
            _ => $function::<u64, 8> $arguments,
        }
    };
}
pub(super) use for_width;

#[cfg(test)]
mod tests {
    use super::*;

    /// Each map as docs/format.md says it, for every element of 16 bits, and the way back.
    #[test]
    fn maps_agree_with_their_definitions() {
        for bits in 0..=u16::MAX {
            let doubled = u32::from(bits) * 2;
            assert_eq!(u32::from(bits.rotated()), doubled % 65_536 + doubled / 65_536);
            assert_eq!(bits.rotated().unrotated(), bits);
            let ordered = if bits >> 15 == 1 { !bits } else { bits | 0x8000 };
            assert_eq!(bits.ordered(), ordered);
            assert_eq!(bits.ordered().unordered(), bits);
            assert_eq!(bits.key(8), (bits << 1 >> 8) as u8);
            for other in [0, 1, 0x3f80, 0x7fff, 0x8000, 0xbf80, 0xffff] {
                let signed = bits.wrapping_sub(other) as i16;
                let zigzag = if signed < 0 { -2 * i32::from(signed) - 1 } else { 2 * i32::from(signed) };
                assert_eq!(i32::from(bits.distance(other)), zigzag);
                assert_eq!(bits.distance(other).at_distance(other), bits);
            }
        }
    }

    #[test]
    fn ordered_floats_are_in_order() {
        let floats = [f32::NEG_INFINITY, -2.0, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 2.0, f32::INFINITY];
        assert!(floats.map(|float| float.to_bits().ordered()).is_sorted_by(|left, right| left < right));
    }

    #[test]
    fn wide_elements_come_back() {
        for bits in [0, 1, u64::MAX, 1 << 63, 0x3ff0_0000_0000_0000, 0xbff0_0000_0000_0001] {
            let narrow = (bits >> 32) as u32;
            assert_eq!(Element::<8>::unordered(bits.ordered()), bits);
            assert_eq!(Element::<4>::unordered(narrow.ordered()), narrow);
            assert_eq!(Element::<8>::at_distance(bits.distance(77), 77), bits);
            assert_eq!(u64::load(bits.bytes()), bits);
            assert_eq!((0..8).fold(0u64, |sum, number| sum.with(number, bits.byte(number))), bits);
        }
    }
}

//! Derived chunks (`docs/format.md` §6.2.2): the bytes are an exact function of a base, and only its name is stored.
//!
//! The functions are casts of FP32 to BF16, rounded to the nearest, ties to even. They differ in what becomes of a NaN:
//! PyTorch's `c10::BFloat16` makes each one 0x7FC0; Eigen's, which TensorFlow, JAX and ml_dtypes share, keeps its sign.
//!
//! Invariant: a function depends on the base's bytes alone, and gives the same bytes on every machine.

/// Which function; its number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cast {
    /// FP32 to BF16; each NaN becomes 0x7FC0.
    Bf16 = 0,
    /// FP32 to BF16; each NaN becomes 0x7FC0 with its sign, so 0xFFC0 where that is set.
    Bf16SignedNan = 1,
}

impl Cast {
    /// All of them, the commonest first.
    pub const ALL: [Self; 2] = [Self::Bf16, Self::Bf16SignedNan];

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cast| *cast as u8 == number)
    }

    /// Writes the cast of `base`, little-endian FP32, into `out`, which has half its length.
    fn fill(self, base: &[[u8; 4]], out: &mut [[u8; 2]]) {
        let sign_mask = if self == Self::Bf16SignedNan { 0x8000 } else { 0 };
        for (target, source) in out.iter_mut().zip(base) {
            *target = round(u32::from_le_bytes(*source), sign_mask).to_le_bytes();
        }
    }

    /// Writes the cast of `base`, little-endian FP32 elements, into `out`, whose old content is lost. False, and nothing, if
    /// `base` is not whole elements.
    pub fn apply(self, base: &[u8], out: &mut Vec<u8>) -> bool {
        out.clear();
        let (elements, rest) = base.as_chunks();
        if rest.is_empty() {
            out.resize(elements.len() * 2, 0);
            self.fill(elements, out.as_chunks_mut().0);
        }
        rest.is_empty()
    }
}

/// The function by which `plain` is exactly the cast of `base`, if it is one.
#[must_use]
pub fn cast_of(plain: &[u8], base: &[u8]) -> Option<Cast> {
    let ((plain, rest), (base, base_rest)) = (plain.as_chunks::<2>(), base.as_chunks::<4>());
    if !rest.is_empty() || !base_rest.is_empty() || plain.len() != base.len() {
        return None;
    }
    Cast::ALL.into_iter().find(|cast| {
        let mut cast_bytes = [[0; 2]; 64];
        // Why in blocks: other numbers differ almost at once.
        plain.chunks(64).zip(base.chunks(64)).all(|(plain, base)| {
            let cast_bytes = &mut cast_bytes[..plain.len()];
            cast.fill(base, cast_bytes);
            cast_bytes == plain
        })
    })
}

/// FP32 bits to BF16 bits; of a NaN's sign what `sign_mask` leaves.
#[inline(always)]
fn round(bits: u32, sign_mask: u16) -> u16 {
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    // Half a unit less one, and one more where the last bit that stays is set: ties go to even. Only a NaN can overflow.
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if is_nan { 0x7fc0 | (bits >> 16) as u16 & sign_mask } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest_even_and_makes_nans_quiet() {
        // What torch.tensor(x).to(torch.bfloat16) and numpy.float32(x).astype(ml_dtypes.bfloat16) give.
        for (bits, torch, eigen) in [
            (0x0000_0000u32, 0x0000u16, 0x0000u16),
            (0x8000_0000, 0x8000, 0x8000),
            (0x3f80_0000, 0x3f80, 0x3f80),
            (0x3f80_7fff, 0x3f80, 0x3f80),
            (0x3f80_8000, 0x3f80, 0x3f80),
            (0x3f80_8001, 0x3f81, 0x3f81),
            (0x3f81_8000, 0x3f82, 0x3f82),
            (0xbf81_8000, 0xbf82, 0xbf82),
            (0x0000_8000, 0x0000, 0x0000),
            (0x0000_8001, 0x0001, 0x0001),
            (0x7f7f_ffff, 0x7f80, 0x7f80),
            (0x7f80_0000, 0x7f80, 0x7f80),
            (0xff80_0000, 0xff80, 0xff80),
            (0x7f80_0001, 0x7fc0, 0x7fc0),
            (0xff80_0001, 0x7fc0, 0xffc0),
            (0x7fff_ffff, 0x7fc0, 0x7fc0),
            (0xffff_ffff, 0x7fc0, 0xffc0),
        ] {
            assert_eq!(round(bits, 0), torch, "{bits:08x}");
            assert_eq!(round(bits, 0x8000), eigen, "{bits:08x}");
        }
    }

    #[test]
    fn a_cast_is_told_from_what_differs_in_one_bit() {
        let base: Vec<u8> = (0..1000u32).flat_map(|n| (n as f32 * 0.123).to_le_bytes()).collect();
        let mut plain = Vec::new();
        assert!(Cast::Bf16.apply(&base, &mut plain));
        assert_eq!(cast_of(&plain, &base), Some(Cast::Bf16));
        assert_eq!(cast_of(&plain[2..], &base), None);
        assert_eq!(cast_of(&plain, &base[1..]), None);
        plain[1998] ^= 1;
        assert_eq!(cast_of(&plain, &base), None);
        assert!(!Cast::Bf16.apply(&base[1..], &mut plain) && plain.is_empty());
    }

    #[test]
    fn the_sign_of_a_nan_tells_which_cast_it_was() {
        let base = [1.5f32.to_bits(), 0xffc0_0000].map(u32::to_le_bytes).concat();
        for cast in Cast::ALL {
            let mut plain = Vec::new();
            cast.apply(&base, &mut plain);
            assert_eq!(cast_of(&plain, &base), Some(cast));
            assert_eq!(Cast::from_number(cast as u8), Some(cast));
        }
        assert_eq!(Cast::from_number(2), None);
    }
}

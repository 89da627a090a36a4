//! Floats of sixteen bits and fewer as FP32, bit for bit: every one of their values is a value of FP32.
//!
//! Sources: IEEE 754 binary16; "FP8 Formats for Deep Learning" (arXiv 2209.05433) for E4M3 and E5M2; "8-bit Numerical
//! Formats for Deep Neural Networks" (arXiv 2206.02915) for the fnuz kinds; the OCP microscaling specification for E8M0 and
//! E2M1.

use crate::readers::Dtype;

/// Half precision as the bits of FP32. Written so that a loop over it becomes vector instructions: both roads are taken,
/// and neither has an FP32 that is itself below the normal ones, which are slow on some processors.
#[inline]
pub(super) fn half(bits: u16) -> u32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let rest = u32::from(bits & 0x7fff) << 13;
    let is_special = rest >= 0x1f << 23;
    let is_small = rest < 1 << 23;
    // Normal: the exponent's bias goes from 15 to 127; of NaN and infinity from 31 to 255.
    let normal = rest + if is_special { 224 << 23 } else { 112 << 23 };
    // Below: put behind a leading 2^-14, which is then taken away.
    let small = (f32::from_bits(rest + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    sign | if is_small { small } else { normal }
}

/// How an eight-bit (or smaller) float is put together.
struct Small {
    exponent_bits: u32,
    mantissa_bits: u32,
    bias: i32,
    special: Special,
}

/// What stands for NaN and infinity.
enum Special {
    /// As IEEE 754: all exponent bits set, and a mantissa of zero is infinite.
    Ieee,
    /// Only all bits set is NaN.
    AllOnes,
    /// What would be a negative zero is NaN.
    NegativeZero,
    /// Nothing.
    None,
}

/// The value of a byte of an eight-bit kind, of a nibble of a four-bit kind. None for other kinds.
pub(super) fn value(dtype: Dtype, code: u8) -> Option<f32> {
    let small = |exponent_bits, mantissa_bits, bias, special| {
        Some(Small { exponent_bits, mantissa_bits, bias, special }.value(u32::from(code)))
    };
    match dtype {
        Dtype::F8E4m3 => small(4, 3, 7, Special::AllOnes),
        Dtype::F8E5m2 => small(5, 2, 15, Special::Ieee),
        Dtype::F8E4m3Fnuz => small(4, 3, 8, Special::NegativeZero),
        Dtype::F8E5m2Fnuz => small(5, 2, 16, Special::NegativeZero),
        Dtype::F4 => small(2, 1, 1, Special::None),
        Dtype::F8E8m0 if code == 0xff => Some(f32::NAN),
        Dtype::F8E8m0 => Some(2_f32.powi(i32::from(code) - 127)),
        Dtype::I8 => Some(f32::from(code.cast_signed())),
        Dtype::U8 | Dtype::Bool | Dtype::U4 => Some(f32::from(code)),
        // Two's complement of four bits.
        Dtype::I4 => Some(f32::from((code << 4).cast_signed() >> 4)),
        _ => None,
    }
}

impl Small {
    fn value(&self, code: u32) -> f32 {
        let fields = (1 << (self.exponent_bits + self.mantissa_bits)) - 1;
        let mantissa = code & ((1 << self.mantissa_bits) - 1);
        let exponent = (code & fields) >> self.mantissa_bits;
        let top = (1 << self.exponent_bits) - 1;
        let is_negative = code > fields;
        match self.special {
            Special::Ieee if exponent == top && mantissa == 0 => {
                return if is_negative { f32::NEG_INFINITY } else { f32::INFINITY };
            }
            Special::Ieee if exponent == top => return f32::NAN,
            Special::AllOnes if code & fields == fields => return f32::NAN,
            Special::NegativeZero if code == fields + 1 => return f32::NAN,
            _ => {}
        }
        let one = 1 << self.mantissa_bits;
        let (digits, exponent) = if exponent == 0 { (mantissa, 1) } else { (mantissa | one, exponent) };
        // Lossless: at most four digits, and exponents that FP32 has.
        let scale = exponent.cast_signed() - self.bias - self.mantissa_bits.cast_signed();
        let magnitude = digits as f32 * 2_f32.powi(scale);
        if is_negative { -magnitude } else { magnitude }
    }
}

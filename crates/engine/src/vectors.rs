//! Loops over numbers for the processor that is there: the program is built for every x86-64, and asks at run time for more.
//!
//! What is given here is compiled a second time for AVX2 and BMI, as far as the compiler puts it in line, and gives the same
//! results bit for bit: nothing here multiplies and adds in one step, or in another order. On other processors it runs as it is.

/// Runs `work` with the widest instructions that are known here. What `work` calls must be `#[inline(always)]`, as it itself, to gain.
#[inline(always)]
pub(crate) fn wide<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = fearless_simd::Level::new().as_avx2() {
        return fearless_simd::Simd::vectorize(avx2, work);
    }
    work()
}

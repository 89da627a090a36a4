//! Shamir's secret sharing over GF(256) (docs/format.md §4): any `needed` of the shares give a secret back, fewer say
//! nothing about it.
//!
//! The field is that of AES: bytes are polynomials over GF(2) modulo x^8 + x^4 + x^3 + x + 1 (0x11b). Each byte of the
//! secret is the constant term of a random polynomial of degree `needed` - 1; share `x` (from 1) holds its value at `x`.
//! A. Shamir, How to share a secret, Communications of the ACM 22 (1979).
//!
//! No look-up in a table and no branch depends on a secret byte. What a wrong share gives is a wrong secret: whether it
//! is the right one shows where it is used.

use zeroize::Zeroizing;

use super::Secret32;

/// Splits a secret into the shares 1 to `count`, of which `needed` give it back; `None` unless 1 <= needed <= count.
#[must_use]
pub fn split(secret: &Secret32, needed: u8, count: u8) -> Option<Vec<Secret32>> {
    if needed == 0 || needed > count {
        return None;
    }
    let mut coefficients = vec![secret.clone()];
    coefficients.extend((1..needed).map(|_| Secret32::random()));
    Some((1..=count).map(|x| evaluate(&coefficients, x)).collect())
}

/// The values of the polynomials with these coefficients (lowest degree first) at `x`, by Horner's rule.
fn evaluate(coefficients: &[Secret32], x: u8) -> Secret32 {
    let mut value = Zeroizing::new([0; 32]);
    for coefficient in coefficients.iter().rev() {
        for (place, byte) in value.iter_mut().zip(coefficient.as_bytes()) {
            *place = multiply(*place, x) ^ byte;
        }
    }
    Secret32::new(*value)
}

/// The secret that these shares (place, value) determine: Lagrange's interpolation at 0. `None` where two have the same
/// place, or one has the place 0.
#[must_use]
pub fn combine(shares: &[(u8, &Secret32)]) -> Option<Secret32> {
    let mut secret = Zeroizing::new([0; 32]);
    for (number, (x, value)) in shares.iter().enumerate() {
        let others = shares.iter().enumerate().filter(|(other, _)| *other != number);
        let (mut above, mut below) = (1, 1);
        for (_, (other, _)) in others {
            above = multiply(above, *other);
            below = multiply(below, other ^ x);
        }
        if *x == 0 || below == 0 {
            return None;
        }
        let weight = multiply(above, inverse(below));
        for (place, byte) in secret.iter_mut().zip(value.as_bytes()) {
            *place ^= multiply(*byte, weight);
        }
    }
    Some(Secret32::new(*secret))
}

fn multiply(mut left: u8, mut right: u8) -> u8 {
    let mut product = 0;
    for _ in 0..8 {
        product ^= left & (right & 1).wrapping_neg();
        left = (left << 1) ^ (0x1b & (left >> 7).wrapping_neg());
        right >>= 1;
    }
    product
}

/// x^254, which is 1 / x, as x^255 is 1.
fn inverse(x: u8) -> u8 {
    let square = |x| multiply(x, x);
    let mut power = x;
    // x^(2^k - 1) becomes x^(2^(k+1) - 1); the last square makes 127 to 254.
    for _ in 0..6 {
        power = multiply(square(power), x);
    }
    square(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long multiplication and division of polynomials, written apart from the code above.
    fn slow_multiply(left: u8, right: u8) -> u8 {
        let mut product: u16 =
            (0..8).filter(|bit| right >> bit & 1 == 1).fold(0, |sum, bit| sum ^ u16::from(left) << bit);
        for bit in (8..15).rev() {
            if product >> bit & 1 == 1 {
                product ^= 0x11b << (bit - 8);
            }
        }
        u8::try_from(product).unwrap()
    }

    #[test]
    fn the_field_is_that_of_aes() {
        for left in 0..=255 {
            for right in 0..=255 {
                assert_eq!(multiply(left, right), slow_multiply(left, right), "{left} {right}");
            }
            if left != 0 {
                assert_eq!(slow_multiply(left, inverse(left)), 1, "{left}");
            }
        }
        // The example of FIPS 197, section 4.2.
        assert_eq!(multiply(0x57, 0x83), 0xc1);
    }

    /// All (c0, c1, c2) are tried: exactly one polynomial of degree 2 goes through three points.
    #[test]
    fn three_shares_are_the_constant_term_that_brute_force_finds() {
        let secret = Secret32::new([0xA7; 32]);
        let shares = split(&secret, 3, 5).unwrap();
        let value = |share: usize| shares[share].as_bytes()[0];
        let goes_through = |c0: u8, c1: u8, c2: u8| {
            [1u8, 3, 5].iter().all(|x| {
                let square = slow_multiply(*x, *x);
                c0 ^ slow_multiply(c1, *x) ^ slow_multiply(c2, square) == value(usize::from(*x) - 1)
            })
        };
        // Why only two loops: the first point gives c0 for each pair.
        let found: Vec<u8> = (0..=255u8)
            .flat_map(|c1| (0..=255u8).map(move |c2| (c1, c2)))
            .map(|(c1, c2)| (value(0) ^ c1 ^ c2, c1, c2))
            .filter(|(c0, c1, c2)| goes_through(*c0, *c1, *c2))
            .map(|(c0, ..)| c0)
            .collect();
        assert_eq!(found, [0xA7]);
    }

    #[test]
    fn any_three_of_five_and_no_two_give_the_secret() {
        let secret = Secret32::random();
        let shares = split(&secret, 3, 5).unwrap();
        for chosen in 0u8..32 {
            let picked: Vec<(u8, &Secret32)> =
                (1..=5).zip(&shares).filter(|(x, _)| chosen >> (x - 1) & 1 == 1).collect();
            let right = combine(&picked).is_some_and(|found| found == secret);
            assert_eq!(right, picked.len() >= 3, "{chosen:05b}");
        }
    }

    #[test]
    fn every_number_of_shares_works() {
        for (needed, count) in [(1, 1), (1, 3), (2, 2), (7, 9), (255, 255), (2, 255)] {
            let secret = Secret32::random();
            let shares = split(&secret, needed, count).unwrap();
            let last: Vec<(u8, &Secret32)> = (1..=count).zip(&shares).skip(usize::from(count - needed)).collect();
            assert_eq!(combine(&last), Some(secret), "{needed} of {count}");
        }
        assert!(split(&Secret32::random(), 0, 3).is_none() && split(&Secret32::random(), 4, 3).is_none());
    }

    #[test]
    fn shares_of_one_place_are_refused() {
        let value = Secret32::random();
        assert_eq!(combine(&[(1, &value), (1, &value)]), None);
        assert_eq!(combine(&[(0, &value)]), None);
    }
}

//! Arithmetic in GF(2^8) for the parity of packs (docs/format.md §6.3).
//!
//! Bytes are polynomials over GF(2) modulo x^8 + x^4 + x^3 + x^2 + 1 (0x11d); addition is XOR. Single products come from
//! a table of logarithms to the base x. Long sums of products, which is what encoding is, need no product at all: a
//! factor is a sum of powers of x, so each piece of data is XORed into the sums of those powers ([`Sums`]), and the eight
//! sums are put together at the end by Horner's rule. That is four XORs a byte and parity shard on average (one where the
//! factor is 1), in loops that the compiler turns into vector instructions.
//!
//! Nothing here is secret: branches and tables may depend on the bytes.

/// x^8 + x^4 + x^3 + x^2 + 1 without its highest term.
const POLYNOMIAL: u8 = 0x1d;
/// Bits of a factor.
const POWERS: usize = 8;

struct Tables {
    /// x^n for n = 0 to 509, so that a sum of two logarithms needs no reduction.
    powers: [u8; 510],
    /// The n for which x^n is this element; that of 0 is never asked for.
    logarithms: [u8; 256],
}

const TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables = Tables { powers: [0; 510], logarithms: [0; 256] };
    let (mut element, mut exponent) = (1u8, 0u8);
    while exponent < 255 {
        tables.powers[exponent as usize] = element;
        tables.powers[exponent as usize + 255] = element;
        tables.logarithms[element as usize] = exponent;
        element = twice(element);
        exponent += 1;
    }
    tables
}

/// The element times x.
const fn twice(element: u8) -> u8 {
    (element << 1) ^ (POLYNOMIAL & (element >> 7).wrapping_neg())
}

pub(super) fn multiply(left: u8, right: u8) -> u8 {
    if left == 0 || right == 0 {
        return 0;
    }
    let exponent =
        usize::from(TABLES.logarithms[usize::from(left)]) + usize::from(TABLES.logarithms[usize::from(right)]);
    TABLES.powers[exponent]
}

/// 1 / `element`, which is not 0.
pub(super) fn inverse(element: u8) -> u8 {
    assert!(element != 0, "0 has no inverse");
    TABLES.powers[255 - usize::from(TABLES.logarithms[usize::from(element)])]
}

/// Adds `factor` times `piece` to the first bytes of `sum`.
pub(super) fn add_product(sum: &mut [u8], factor: u8, piece: &[u8]) {
    let mut products = [0; 256];
    for (byte, product) in (0..=255).zip(&mut products) {
        *product = multiply(factor, byte);
    }
    for (sum, byte) in sum.iter_mut().zip(piece) {
        *sum ^= products[usize::from(*byte)];
    }
}

/// Sums of products of factors and pieces of one length, one sum a row.
pub(super) struct Sums {
    length: usize,
    /// For each row and each power of x the sum of the pieces whose factor has that power.
    powers: Vec<u8>,
}

impl Sums {
    /// `rows` sums of pieces of at most `length` bytes.
    pub(super) fn new(rows: usize, length: usize) -> Self {
        Self { length, powers: vec![0; rows * POWERS * length] }
    }

    /// Adds `factor` times `piece` to a row; a short piece is followed by zeros.
    pub(super) fn add(&mut self, row: usize, factor: u8, piece: &[u8]) {
        let sums = self.powers[row * POWERS * self.length..][..POWERS * self.length].chunks_exact_mut(self.length);
        for (_, sum) in sums.enumerate().filter(|(power, _)| factor >> power & 1 == 1) {
            sum.iter_mut().zip(piece).for_each(|(sum, byte)| *sum ^= byte);
        }
    }

    /// Writes the first bytes of a row's sum to `target`, and begins that row anew.
    pub(super) fn take(&mut self, row: usize, target: &mut [u8]) {
        let sums = &mut self.powers[row * POWERS * self.length..][..POWERS * self.length];
        target.fill(0);
        for sum in sums.chunks_exact(self.length).rev() {
            for (target, byte) in target.iter_mut().zip(sum) {
                *target = twice(*target) ^ byte;
            }
        }
        sums.fill(0);
    }
}

/// The inverse of a square matrix of rows; none where it has none.
pub(super) fn invert(mut matrix: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    let size = matrix.len();
    let unit = |row: usize| (0..size).map(|column| u8::from(row == column)).collect();
    let mut inverted: Vec<Vec<u8>> = (0..size).map(unit).collect();
    for column in 0..size {
        let pivot = (column..size).find(|row| matrix[*row][column] != 0)?;
        matrix.swap(column, pivot);
        inverted.swap(column, pivot);
        let factor = inverse(matrix[column][column]);
        for row in [&mut matrix[column], &mut inverted[column]] {
            row.iter_mut().for_each(|element| *element = multiply(*element, factor));
        }
        let (above, above_inverted) = (matrix[column].clone(), inverted[column].clone());
        for row in (0..size).filter(|row| *row != column) {
            let factor = matrix[row][column];
            add_product(&mut matrix[row], factor, &above);
            add_product(&mut inverted[row], factor, &above_inverted);
        }
    }
    Some(inverted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition, without tables.
    fn product(left: u8, right: u8) -> u8 {
        let mut product = 0u16;
        for bit in 0..8 {
            product ^= (u16::from(left) << bit) * (u16::from(right) >> bit & 1);
        }
        for bit in (8..15).rev() {
            product ^= (0x11d << (bit - 8)) * (product >> bit & 1);
        }
        u8::try_from(product).unwrap()
    }

    #[test]
    fn the_tables_are_the_field() {
        for left in 0..=255 {
            for right in 0..=255 {
                assert_eq!(multiply(left, right), product(left, right), "{left} * {right}");
            }
            assert!(left == 0 || product(left, inverse(left)) == 1, "1 / {left}");
        }
    }

    #[test]
    fn sums_are_sums_of_products() {
        let pieces: Vec<Vec<u8>> =
            (0..40u8).map(|n| (0..100 - n).map(|at| at.wrapping_mul(n ^ 0x5b)).collect()).collect();
        let mut sums = Sums::new(3, 100);
        for round in 0..2 {
            for row in 0..3 {
                let factor = |n: usize| (n * 37 + row * 11 + round) as u8;
                let mut expected = vec![0; 100];
                for (number, piece) in pieces.iter().enumerate() {
                    sums.add(row, factor(number), piece);
                    add_product(&mut expected, factor(number), piece);
                }
                let mut taken = vec![7; 100];
                sums.take(row, &mut taken);
                assert_eq!(taken, expected, "row {row}, round {round}");
            }
        }
    }

    #[test]
    fn a_matrix_times_its_inverse_is_one() {
        for size in 1..=16u8 {
            let cauchy = |row: u8| (0..size).map(|column| inverse((100 + row) ^ column)).collect::<Vec<u8>>();
            let matrix: Vec<Vec<u8>> = (0..size).map(cauchy).collect();
            let inverted = invert(matrix.clone()).unwrap();
            for (row, factors) in matrix.iter().enumerate() {
                for column in 0..usize::from(size) {
                    let products = factors.iter().zip(&inverted).map(|(factor, row)| multiply(*factor, row[column]));
                    assert_eq!(products.fold(0, |sum, product| sum ^ product), u8::from(row == column));
                }
            }
        }
        assert_eq!(invert(vec![vec![1, 2], vec![1, 2]]), None);
        assert_eq!(invert(vec![vec![0, 2], vec![3, 0]]).unwrap(), [[0, inverse(3)], [inverse(2), 0]]);
    }
}

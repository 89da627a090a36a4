//! Holds the statistics of a checkpoint's tensors against those of the one before: what broke, and how far each drifted.
//!
//! Training moves numbers by little from one checkpoint to the next, so a tensor that suddenly has a NaN, is all zero, or
//! has numbers of other sizes was damaged, before it was backed up. What is found is a warning, never an error: a reset
//! optimizer or a frozen and pruned model looks the same. The limits below lie well above what steps of real training
//! reach (docs/tensors.md, Sentinel), so what they miss is damage that changes few numbers by little.

use std::collections::HashMap;
use std::fmt;

use super::Statistics;
use super::table::{TensorRecord, TensorTable};
use crate::readers::Dtype;

/// A tensor whose numbers moved by more binades on the average has another distribution. Seen in training: 2.02, of Adam's
/// `m` in the first steps.
pub const DISTANCE_MAX: f64 = 4.0;
/// A tensor whose norm became so many times larger or smaller has another. Seen in training: 6.2, of `m` too.
pub const NORM_FACTOR_MAX: f64 = 32.0;
/// A tensor whose largest magnitude became so many times larger has a number that does not belong there. Seen in
/// training: 7.4.
pub const MAGNITUDE_FACTOR_MAX: f64 = 64.0;
/// A tensor of which this share of all elements became zero has lost a part. Seen in training: none.
pub const ZEROS_SHARE_MAX: f64 = 1.0 / 256.0;
/// But not one that had more zeros than this share before: an embedding's rows come and go with the words that are met.
pub const ZEROS_BEFORE_MAX: f64 = 1.0 / 1024.0;
/// A tensor of which this share of all elements were zero and are not any more is filling: its norm and distribution are those of
/// other elements. Seen in training: the optimizer's state of an embedding whose rows are met one by one.
pub const FILLING_SHARE_MIN: f64 = 1.0 / 64.0;
/// Numbers of second moments are squares, so they move so many times as far, by exponent.
pub const SECOND_MOMENT: f64 = 2.0;
/// Where the name of a tensor of second moments ends: of torch and DeepSpeed, with Adafactor's and RMSprop's; of Optax.
pub const SECOND_MOMENTS: [&str; 6] =
    ["exp_avg_sq", "exp_avg_sqs", "exp_avg_sq_row", "exp_avg_sq_col", "square_avg", "nu"];
/// NaN or infinities that were there are told where they became at least so many times as many,
pub const LOST_FACTOR_MIN: u64 = 2;
/// and those that came are at least one of so many elements.
pub const LOST_SHARE_MIN: u64 = 100;
/// Smaller tensors are scalars, counters and the like: of them only NaN and infinity are told.
pub const ELEMENTS_MIN: u64 = 64;

/// What is wrong with a tensor, or was done to it.
#[derive(Debug, Clone, PartialEq)]
pub enum Break {
    /// So many elements are not a number, and so many were.
    Nan(u64, u64),
    /// So many elements are infinite, and so many were.
    Infinite(u64, u64),
    /// All elements are zero, and were not.
    AllZero,
    /// All elements are this number, and were not all the same.
    Constant(f64),
    /// So many more elements are zero, of a tensor that had next to none.
    Zeros(u64),
    /// The L2 norm is so many times what it was.
    Norm(f64),
    /// The largest magnitude is so many times what it was.
    Magnitude(f64),
    /// The numbers moved by so many binades on the average.
    Distribution(f64),
    /// The tensor is new.
    Appeared,
    /// The tensor is gone.
    Vanished,
    /// Its kind or shape is another: nothing else was compared.
    Reshaped,
}

impl Break {
    /// True for what hints at damage; false for what somebody did on purpose.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        !matches!(self, Self::Appeared | Self::Vanished | Self::Reshaped)
    }

    /// Stable machine-readable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Nan(..) => "nan",
            Self::Infinite(..) => "infinite",
            Self::AllZero => "all-zero",
            Self::Constant(_) => "constant",
            Self::Zeros(_) => "zeros",
            Self::Norm(_) => "norm",
            Self::Magnitude(_) => "magnitude",
            Self::Distribution(_) => "distribution",
            Self::Appeared => "appeared",
            Self::Vanished => "vanished",
            Self::Reshaped => "reshaped",
        }
    }
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nan(count, 0) => write!(f, "{count} elements are NaN; there was none"),
            Self::Nan(count, before) => write!(f, "{count} elements are NaN; there were {before}"),
            Self::Infinite(count, 0) => write!(f, "{count} elements are infinite; there was none"),
            Self::Infinite(count, before) => write!(f, "{count} elements are infinite; there were {before}"),
            Self::AllZero => f.write_str("all elements are zero, and were not"),
            Self::Constant(number) => write!(f, "all elements are {number:.3e}, and were not all the same"),
            Self::Zeros(count) => write!(f, "{count} more elements are zero"),
            Self::Norm(factor) => write!(f, "the norm is {factor:.3e} times what it was"),
            Self::Magnitude(factor) => write!(f, "the largest magnitude is {factor:.3e} times what it was"),
            Self::Distribution(binades) => write!(f, "the numbers moved by {binades:.2} binades on the average"),
            Self::Appeared => f.write_str("new"),
            Self::Vanished => f.write_str("gone"),
            Self::Reshaped => f.write_str("another kind or shape"),
        }
    }
}

/// Something that was found about a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The tensor's name.
    pub tensor: String,
    /// What was found.
    pub what: Break,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.tensor, self.what)
    }
}

/// How far a tensor moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Change of the L2 norm as a share of what it was; none where that was zero.
    pub norm: Option<f64>,
    /// Distance of the histograms of exponents in binades ([`super::Exponents::distance`]); none where either is empty.
    pub distance: Option<f64>,
}

/// One tensor of two tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Row<'a> {
    /// Its name.
    pub name: &'a str,
    /// As it was; none where it is new, or there is nothing to compare with.
    pub old: Option<&'a TensorRecord>,
    /// As it is; none where it is gone.
    pub new: Option<&'a TensorRecord>,
    /// How far it moved; none where kind or shape are another, or either has no statistics.
    pub drift: Option<Drift>,
    /// What was found. Empty without an old table.
    pub findings: Vec<Break>,
}

/// All tensors of `new`, in the order of the file, then those of `old` that are gone. Tensors are the same that have the
/// same name, the first to the first where names come several times.
#[must_use]
pub fn rows<'a>(old: Option<&'a TensorTable>, new: &'a TensorTable) -> Vec<Row<'a>> {
    let Some(old) = old else {
        let alone = |record: &'a TensorRecord| Row {
            name: &record.tensor.name,
            old: None,
            new: Some(record),
            drift: None,
            findings: Vec::new(),
        };
        return new.tensors.iter().map(alone).collect();
    };
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, record) in old.tensors.iter().enumerate().rev() {
        places.entry(&record.tensor.name).or_default().push(place);
    }
    let mut left = vec![true; old.tensors.len()];
    let mut rows = Vec::with_capacity(new.tensors.len());
    for record in &new.tensors {
        let place = places.get_mut(record.tensor.name.as_str()).and_then(Vec::pop);
        if let Some(place) = place {
            left[place] = false;
        }
        // Why not without: a table that is not whole says nothing of what it lacks.
        let is_known = place.is_some() || old.left_out == 0;
        rows.push(Row::of(place.map(|place| &old.tensors[place]), Some(record), is_known));
    }
    let gone = old.tensors.iter().zip(left).filter(|(_, left)| *left);
    rows.extend(gone.map(|(record, _)| Row::of(Some(record), None, new.left_out == 0)));
    rows
}

/// What broke between two tables, in the order of [`rows`].
#[must_use]
pub fn compare(old: &TensorTable, new: &TensorTable) -> Vec<Finding> {
    let findings = |row: Row<'_>| {
        let tensor = row.name.to_owned();
        row.findings.into_iter().map(move |what| Finding { tensor: tensor.clone(), what })
    };
    rows(Some(old), new).into_iter().flat_map(findings).collect()
}

impl<'a> Row<'a> {
    fn of(old: Option<&'a TensorRecord>, new: Option<&'a TensorRecord>, is_known: bool) -> Self {
        let name = new.or(old).map_or("", |record| &record.tensor.name);
        let mut row = Self { name, old, new, drift: None, findings: Vec::new() };
        match (old, new) {
            (Some(before), Some(now)) => row.judge(before, now),
            (None, Some(now)) if is_known => {
                row.findings.push(Break::Appeared);
                row.findings.extend(nan(now));
            }
            (Some(_), None) if is_known => row.findings.push(Break::Vanished),
            _ => {}
        }
        row
    }

    fn judge(&mut self, old: &TensorRecord, new: &TensorRecord) {
        if (old.tensor.dtype, &old.tensor.shape) != (new.tensor.dtype, &new.tensor.shape) {
            self.findings.push(Break::Reshaped);
            let had_none = old.statistics.as_ref().is_some_and(|statistics| statistics.nan == 0);
            self.findings.extend(nan(new).filter(|_| had_none));
            return;
        }
        if let (Some(before), Some(now)) = (&old.statistics, &new.statistics) {
            self.drift = Some(drift(before, now));
            self.findings = breaks(&new.tensor.name, new.tensor.dtype, before, now);
        }
    }
}

/// NaN in a tensor that can't be held against its older numbers. Why not infinities: masks are made of them.
fn nan(new: &TensorRecord) -> Option<Break> {
    let nan = new.statistics.as_ref().map_or(0, |statistics| statistics.nan);
    (nan > 0).then_some(Break::Nan(nan, 0))
}

/// How far numbers moved.
#[must_use]
pub fn drift(old: &Statistics, new: &Statistics) -> Drift {
    let norm = (old.norm() > 0.0).then(|| (new.norm() - old.norm()) / old.norm());
    Drift { norm: norm.filter(|change| !change.is_nan()), distance: old.exponents.distance(&new.exponents) }
}

/// What broke between two states of the tensor of this name. Of integers only that all of them are zero: token numbers, generators'
/// states and counters are free to jump.
#[must_use]
pub fn breaks(name: &str, dtype: Dtype, old: &Statistics, new: &Statistics) -> Vec<Break> {
    let mut breaks = Vec::new();
    if is_news(old.nan, new.nan, new.elements) {
        breaks.push(Break::Nan(new.nan, old.nan));
    }
    if is_news(old.infinite, new.infinite, new.elements) {
        breaks.push(Break::Infinite(new.infinite, old.infinite));
    }
    if new.elements < ELEMENTS_MIN {
        return breaks;
    }
    if new.is_all_zero() {
        if !old.is_all_zero() {
            breaks.push(Break::AllZero);
        }
        return breaks;
    }
    // Why not from all zero: an optimizer's first steps.
    if dtype.is_float() && !old.is_all_zero() {
        breaks.extend(float_breaks(is_second_moment(name), old, new));
    }
    breaks
}

/// Whether so many elements without a value are worth a word, where there were so many before.
fn is_news(old: u64, new: u64, elements: u64) -> bool {
    if old == 0 {
        return new > 0;
    }
    let came = new.saturating_sub(old);
    new / LOST_FACTOR_MIN >= old && came.saturating_mul(LOST_SHARE_MIN) >= elements
}

/// True for names of second moments, of a tensor or of a part of it (`optimizer.state.3.exp_avg_sq`, `0/nu/dense/kernel`,
/// `max_exp_avg_sq`).
fn is_second_moment(name: &str) -> bool {
    let known = |part: &str| SECOND_MOMENTS.contains(&part.strip_prefix("max_").unwrap_or(part));
    name.split(['.', '/']).any(known)
}

/// The one number that all elements are; none where they differ.
fn constant(statistics: &Statistics) -> Option<f64> {
    let is_whole = statistics.nan == 0 && statistics.infinite == 0;
    statistics.range.filter(|(low, high)| is_whole && low == high).map(|(low, _)| low)
}

fn float_breaks(is_second_moment: bool, old: &Statistics, new: &Statistics) -> Vec<Break> {
    if let (Some(number), None) = (constant(new), constant(old)) {
        return vec![Break::Constant(number)];
    }
    // Precision: shares and factors need no more than the 53 bits of a float.
    let share = |count: u64| count as f64 / new.elements as f64;
    let times = if is_second_moment { SECOND_MOMENT } else { 1.0 };
    let zeros = new.zeros.saturating_sub(old.zeros);
    let is_hole = share(zeros) > ZEROS_SHARE_MAX && share(old.zeros) <= ZEROS_BEFORE_MAX;
    let is_filling = share(old.zeros.saturating_sub(new.zeros)) > FILLING_SHARE_MIN;
    let norm = new.norm() / old.norm();
    // Both ways; false where neither norm is finite.
    let is_other = !is_filling && norm.log2().abs() > times * NORM_FACTOR_MAX.log2();
    let magnitude = match (old.magnitude(), new.magnitude()) {
        (Some(old), Some(new)) if old > 0.0 => new / old,
        _ => 1.0,
    };
    let distance = old.exponents.distance(&new.exponents).filter(|_| !is_filling);
    [
        is_hole.then_some(Break::Zeros(zeros)),
        is_other.then_some(Break::Norm(norm)),
        (magnitude.log2() > times * MAGNITUDE_FACTOR_MAX.log2()).then_some(Break::Magnitude(magnitude)),
        distance.filter(|distance| *distance > times * DISTANCE_MAX).map(Break::Distribution),
    ]
    .into_iter()
    .flatten()
    .collect()
}

//! What a disaster now would cost a training run: the age of its newest durable checkpoint, and the steps and GPU-hours
//! that were done since.
//!
//! Of steps there are two figures. What is certain is the newest step that was seen on disk, also one that is being
//! written, less the newest durable one. What was done since then shows only in the run's rate: steps between its two
//! newest durable checkpoints over the time between them. That is a guess, and one that goes on when the run has ended.

/// A checkpoint that would survive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Durable {
    /// Its step, if it has one.
    pub step: Option<u64>,
    /// When the run had finished it, in Unix seconds.
    pub finished: f64,
}

/// What is known of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts<'f> {
    /// Unix seconds.
    pub now: f64,
    /// Its durable checkpoints, in any order.
    pub durable: &'f [Durable],
    /// The newest step seen on disk, finished or not.
    pub newest_seen: Option<u64>,
    /// How many GPUs work on it, if that is known.
    pub gpus: Option<f64>,
}

/// What would be lost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Risk {
    /// Seconds since the newest durable checkpoint was finished: the recovery point that was reached. None without one.
    pub age_seconds: Option<f64>,
    /// The step of that checkpoint.
    pub durable_step: Option<u64>,
    /// Steps seen on disk that are not durable.
    pub steps: Option<u64>,
    /// Steps done since, if the run goes on at its rate.
    pub steps_by_rate: Option<u64>,
    /// The age in hours, times the GPUs.
    pub gpu_hours: Option<f64>,
}

/// The risk at one moment.
#[must_use]
pub fn risk(facts: &Facts) -> Risk {
    let newest = facts.durable.iter().max_by(|left, right| left.finished.total_cmp(&right.finished));
    let Some(newest) = newest else {
        return Risk { steps: facts.newest_seen, ..Risk::default() };
    };
    // Why not below 0: clocks of two machines.
    let age = (facts.now - newest.finished).max(0.0);
    let seen = facts.newest_seen.zip(newest.step).map(|(seen, durable)| seen.saturating_sub(durable));
    Risk {
        age_seconds: Some(age),
        durable_step: newest.step,
        steps: seen,
        steps_by_rate: rate(facts.durable, newest).map(|rate| (rate * age) as u64),
        gpu_hours: facts.gpus.map(|gpus| gpus * age / 3600.0),
    }
}

/// Steps a second between the newest durable checkpoint and the one before it. Several of one moment or step give none.
fn rate(durable: &[Durable], newest: &Durable) -> Option<f64> {
    let step = newest.step?;
    let earlier =
        durable.iter().filter(|it| it.finished < newest.finished && it.step.is_some_and(|other| other < step));
    let before = earlier.max_by(|left, right| left.finished.total_cmp(&right.finished))?;
    let steps = step - before.step?;
    Some(steps as f64 / (newest.finished - before.finished))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn risk_of_a_run() {
        let durable = |step: u64, finished: f64| Durable { step: Some(step), finished };
        let stepless = Durable { step: None, finished: 950.0 };
        // Durable checkpoints; the newest step seen; GPUs; then age, step, steps, steps by rate and GPU-hours at 1,000 s.
        let cases: [(&[Durable], _, _, [Option<f64>; 5]); 8] = [
            (&[], None, Some(8.0), [None; 5]),
            (&[], Some(20), None, [None, None, Some(20.0), None, None]),
            (&[durable(100, 640.0)], Some(100), Some(8.0), [Some(360.0), Some(100.0), Some(0.0), None, Some(0.8)]),
            (&[durable(100, 640.0)], Some(120), None, [Some(360.0), Some(100.0), Some(20.0), None, None]),
            (
                &[durable(120, 900.0), durable(100, 700.0), durable(80, 500.0)],
                Some(120),
                None,
                [Some(100.0), Some(120.0), Some(0.0), Some(10.0), None],
            ),
            // Resumed from an earlier step: the newest is what counts, not the highest.
            (
                &[durable(200, 300.0), durable(120, 900.0), durable(100, 700.0)],
                Some(200),
                None,
                [Some(100.0), Some(120.0), Some(80.0), Some(10.0), None],
            ),
            (&[durable(100, 2000.0)], Some(90), None, [Some(0.0), Some(100.0), Some(0.0), None, None]),
            (&[stepless], Some(5), Some(72.0), [Some(50.0), None, None, None, Some(1.0)]),
        ];
        for (durable, newest_seen, gpus, expected) in cases {
            let risk = risk(&Facts { now: 1000.0, durable, newest_seen, gpus });
            let count = |number: Option<u64>| number.map(|number| number as f64);
            let found = [
                risk.age_seconds,
                count(risk.durable_step),
                count(risk.steps),
                count(risk.steps_by_rate),
                risk.gpu_hours,
            ];
            assert_eq!(found, expected, "{durable:?}, {newest_seen:?}");
        }
    }
}

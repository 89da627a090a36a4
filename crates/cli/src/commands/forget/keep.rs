//! The options that say what to keep, and the rules that they are.

use seawall_plan::retention::{Best, Count, Direction, Periodic, Rules, RunRules, Within};

/// What to keep. N is a number or `all`; a span is written like 1y5m7d2h.
#[derive(Debug, Default, clap::Args)]
#[group(multiple = true)]
#[command(next_help_heading = "What to keep")]
pub struct Keep {
    /// The last N
    #[arg(long, value_name = "N")]
    keep_last: Option<Count>,

    /// The newest of each of N hours
    #[arg(long, value_name = "N")]
    keep_hourly: Option<Count>,

    /// The newest of each of N days
    #[arg(long, value_name = "N")]
    keep_daily: Option<Count>,

    /// The newest of each of N weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<Count>,

    /// The newest of each of N months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<Count>,

    /// The newest of each of N years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<Count>,

    /// All within this span before the newest of the group
    #[arg(long, value_name = "SPAN")]
    keep_within: Option<Within>,

    /// The newest of each hour within this span
    #[arg(long, value_name = "SPAN")]
    keep_within_hourly: Option<Within>,

    /// The newest of each day within this span
    #[arg(long, value_name = "SPAN")]
    keep_within_daily: Option<Within>,

    /// The newest of each week within this span
    #[arg(long, value_name = "SPAN")]
    keep_within_weekly: Option<Within>,

    /// The newest of each month within this span
    #[arg(long, value_name = "SPAN")]
    keep_within_monthly: Option<Within>,

    /// The newest of each year within this span
    #[arg(long, value_name = "SPAN")]
    keep_within_yearly: Option<Within>,

    /// All with this tag
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
}

/// What to keep of training runs: snapshots with the labels checkpoint.run and checkpoint.step, one group for each host
/// and run. K is a number or `all`.
#[derive(Debug, Default, clap::Args)]
#[group(multiple = true)]
#[command(next_help_heading = "What to keep of training runs")]
pub struct KeepOfRuns {
    /// The first step at or after each multiple of N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    run_steps_every: Option<u64>,

    /// The K highest steps, whenever they were stored
    #[arg(long, value_name = "K")]
    run_last: Option<Count>,

    /// The K best by --metric; say which values are better. Of equal ones the newer step
    #[arg(long, value_name = "K", requires_all = ["metric", "better"])]
    run_best: Option<Count>,

    /// The label that holds the metric, such as loss; snapshots without a number in it are not judged by it
    #[arg(long, value_name = "LABEL", requires = "run_best")]
    metric: Option<String>,

    /// The best has the lowest value, as of a loss
    #[arg(long, group = "better", requires = "run_best")]
    lower_is_better: bool,

    /// The best has the highest value, as of an accuracy
    #[arg(long, group = "better", requires = "run_best")]
    higher_is_better: bool,

    /// The newest step, and before it one for each doubling of the distance
    #[arg(long)]
    run_log_spaced: bool,
}

/// All rules.
pub(super) fn rules(keep: &Keep, runs: &KeepOfRuns) -> Rules {
    Rules { run: runs.rules(), ..keep.rules() }
}

impl Keep {
    /// The rules that these options are, but for those of runs.
    fn rules(&self) -> Rules {
        let periodic = |count: Option<Count>, within| Periodic { count: count.unwrap_or_default(), within };
        Rules {
            last: self.keep_last.unwrap_or_default(),
            hourly: periodic(self.keep_hourly, self.keep_within_hourly),
            daily: periodic(self.keep_daily, self.keep_within_daily),
            weekly: periodic(self.keep_weekly, self.keep_within_weekly),
            monthly: periodic(self.keep_monthly, self.keep_within_monthly),
            yearly: periodic(self.keep_yearly, self.keep_within_yearly),
            within: self.keep_within,
            tags: self.keep_tag.clone(),
            ..Rules::default()
        }
    }
}

impl KeepOfRuns {
    fn rules(&self) -> RunRules {
        let direction = if self.higher_is_better { Direction::Higher } else { Direction::Lower };
        let best = |(count, metric): (Count, &String)| Best { count, metric: metric.clone(), direction };
        RunRules {
            steps_every: self.run_steps_every.unwrap_or_default(),
            last: self.run_last.unwrap_or_default(),
            best: self.run_best.zip(self.metric.as_ref()).map(best),
            log_spaced: self.run_log_spaced,
        }
    }
}

//! How many tests ran, read from the closing lines of nextest and of cargo's own runner.

/// Tests that passed and failed so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
}

impl Counts {
    /// Adds what a closing line tells; any other line tells nothing.
    pub fn read(&mut self, line: &str) {
        let line = line.trim_start();
        let results = if let Some(rest) = line.strip_prefix("test result:") {
            rest.split_once(". ").map(|(_, counts)| counts)
        } else if line.starts_with("Summary [") {
            line.split_once(" run: ").map(|(_, counts)| counts)
        } else {
            None
        };
        for part in results.unwrap_or_default().split([',', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next().and_then(|word| word.parse::<u64>().ok()), words.next())
            else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" | "timed" | "exec" => self.failed += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted_and_other_lines_are_not() {
        let table = [
            ("     Summary [   1.204s] 12 tests run: 12 passed, 0 skipped", 12, 0),
            ("     Summary [   1.204s] 12 tests run: 10 passed (1 slow), 2 failed, 3 skipped", 10, 2),
            ("     Summary [   0.004s] 1 test run: 0 passed, 1 timed out, 0 skipped", 0, 1),
            ("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s", 5, 0),
            ("test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out", 4, 1),
            ("        PASS [   0.004s] seawall-engine ids::tests::round_trip", 0, 0),
            ("7 passed, 7 failed", 0, 0),
        ];
        for (line, passed, failed) in table {
            let mut counts = Counts::default();
            counts.read(line);
            assert_eq!(counts, Counts { passed, failed }, "{line}");
        }
    }
}

//! How many tests ran, read from the closing lines of nextest, of cargo's own runner and of Python's unittest.

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
        self.read_unittest(line);
        // Indented, it is the output of one failed test, which nextest shows and counts itself.
        let results = if let Some(rest) = line.strip_prefix("test result:") {
            rest.split_once(". ").map(|(_, counts)| counts)
        } else if line.trim_start().starts_with("Summary [") {
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

    /// unittest first tells how many ran, then how many of them were not good.
    fn read_unittest(&mut self, line: &str) {
        if let Some((number, _)) = line.strip_prefix("Ran ").and_then(|rest| rest.split_once(" test")) {
            self.passed += number.parse().unwrap_or(0);
        } else if let Some(list) = line.strip_prefix("FAILED (") {
            let bad = list.trim_end_matches(')').split(", ").filter_map(|part| part.split_once('='));
            let bad = bad.filter(|(what, _)| matches!(*what, "failures" | "errors"));
            let bad: u64 = bad.filter_map(|(_, number)| number.parse::<u64>().ok()).sum();
            self.passed = self.passed.saturating_sub(bad);
            self.failed += bad;
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
            ("    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 23 filtered out", 0, 0),
            ("7 passed, 7 failed", 0, 0),
            ("Ran 9 tests in 1.2s\n\nOK (skipped=1)", 9, 0),
            ("Ran 9 tests in 1.2s\n\nFAILED (failures=1, errors=2, skipped=1)", 6, 3),
        ];
        for (line, passed, failed) in table {
            let mut counts = Counts::default();
            line.lines().for_each(|line| counts.read(line));
            assert_eq!(counts, Counts { passed, failed }, "{line}");
        }
    }
}

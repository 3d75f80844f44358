//! Counting what passed and what failed.

use crate::cargo;

/// Named results of one run.
#[derive(Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: Vec<String>,
}

impl Tally {
    /// Counts one named result and prints it.
    pub(crate) fn count(&mut self, name: &str, outcome: Result<String, String>) {
        match outcome {
            Ok(detail) => {
                self.passed += 1;
                cargo::tell(&format!("pass  {name}{}", dashed(&detail)));
            }
            Err(detail) => {
                self.failed.push(name.to_owned());
                cargo::tell(&format!("FAIL  {name}{}", dashed(&detail)));
            }
        }
    }

    /// Counts the results of test binaries from the lines in which each sums itself up.
    pub(crate) fn count_test_binaries(&mut self, name: &str, ran: &cargo::Ran) {
        let cargo::Ran { success, output } = ran;
        let (mut failed, before) = (0, self.failed.len());
        for line in output.lines().filter(|line| line.starts_with("test result:")) {
            self.passed += number_before(line, " passed");
            failed += number_before(line, " failed");
        }
        for line in output.lines().filter(|line| line.starts_with("test ") && line.ends_with("FAILED")) {
            self.failed.push(line.trim_start_matches("test ").trim_end_matches(" ... FAILED").to_owned());
            failed = failed.saturating_sub(1);
        }
        for _ in 0..failed {
            self.failed.push(format!("{name}: a test whose name was not read"));
        }
        if !success && self.failed.len() == before {
            self.failed.push(format!("{name}: did not build or ended early"));
        }
    }

    /// Prints what failed and the closing line; `true` when nothing failed and something passed.
    pub(crate) fn close(self) -> bool {
        for name in &self.failed {
            cargo::tell(&format!("failed: {name}"));
        }
        cargo::tell(&format!("{} passed, {} failed", self.passed, self.failed.len()));
        self.failed.is_empty() && self.passed > 0
    }
}

fn dashed(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

fn number_before(line: &str, word: &str) -> usize {
    line.find(word)
        .and_then(|end| line[..end].rsplit(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_test_binaries_are_read() {
        let mut tally = Tally::default();
        let output = "test a::b ... ok\ntest c::d ... FAILED\ntest result: FAILED. 12 passed; 1 failed; 0 ignored\n";
        tally.count_test_binaries("unit", &cargo::Ran { success: false, output: output.to_owned() });
        assert_eq!(tally.passed, 12);
        assert_eq!(tally.failed, ["c::d"]);
    }

    #[test]
    fn a_build_that_fails_counts_as_failed() {
        let mut tally = Tally::default();
        tally.count_test_binaries("unit", &cargo::Ran { success: false, output: String::new() });
        assert_eq!(tally.failed.len(), 1);
    }
}

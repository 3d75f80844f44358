//! Named cases of one programme, a few at a time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;

use crate::cases::CaseResult;

/// A case: its name, and what it does, answering what was found in words.
pub(crate) type Case<'a> = (&'static str, Box<dyn Fn() -> Result<String> + Sync + 'a>);

/// Runs the cases whose name contains `only`, `at_once` at a time and begun in their order; `tell` gets each result as it
/// comes. Answers in the order of the list.
pub(crate) fn run(
    cases: Vec<Case<'_>>,
    only: &str,
    at_once: usize,
    tell: &(dyn Fn(&CaseResult) + Sync),
) -> Vec<CaseResult> {
    let cases: Vec<_> = cases.into_iter().filter(|(name, _)| name.contains(only)).collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((name, case)) = cases.get(index) else { return };
                    let begun = Instant::now();
                    let (pass, detail) = match case() {
                        Ok(detail) => (true, detail),
                        Err(error) => (false, format!("{error:#}")),
                    };
                    let seconds = begun.elapsed().as_secs_f64();
                    let result = CaseResult { name: (*name).to_owned(), pass, detail, seconds };
                    tell(&result);
                    if let Ok(mut results) = results.lock() {
                        results.push((index, result));
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

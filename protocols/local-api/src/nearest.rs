/// The candidate that `word` was probably meant to be, for "did you mean" hints.
///
/// Case counts for nothing. A candidate is proposed when at most a third of the word's letters, and at least one, would
/// have to be inserted, removed, changed or swapped with their neighbour; among equals the first wins.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().flat_map(char::to_lowercase).take(LONGEST + 1).collect();
    let limit = (word.len() / 3).max(1);
    if word.len() > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.chars().flat_map(char::to_lowercase).take(LONGEST + 1).collect();
            let distance = edits(&word, &letters);
            (distance <= limit && distance < letters.len()).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, removals, changes and swaps of neighbours that turn `a` into `b` (optimal string alignment).
fn edits(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let mut cost = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

/// Longer words are compared with nothing, so that a hostile one costs nothing.
const LONGEST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_word() {
        let words = ["listen_port", "laptop", "status", "up"];
        for (word, meant) in [
            ("lapton", "laptop"),
            ("stauts", "status"),
            ("listenport", "listen_port"),
            ("Laptop", "laptop"),
            ("pu", "up"),
        ] {
            assert_eq!(nearest(word, words), Some(meant), "{word}");
        }
    }

    #[test]
    fn another_word_finds_nothing() {
        for word in ["printer", "", "x", "stratosphere"] {
            assert_eq!(nearest(word, ["laptop", "status", "u"]), None, "{word}");
        }
        assert_eq!(nearest(&"a".repeat(1000), ["a"]), None);
    }
}

/// Rows in columns that line up, without lines around them; the last column is not padded.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with its heading.
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines of the table.
    pub(crate) fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0))
            .collect();
        self.rows
            .iter()
            .map(|row| {
                let mut line = String::new();
                for (cell, wide) in row.iter().zip(&widths) {
                    line.push_str(cell);
                    line.extend(std::iter::repeat_n(' ', wide.saturating_sub(width(cell)) + 2));
                }
                line.trim_end().to_owned()
            })
            .collect()
    }
}

/// Characters of `cell` as they show, colour sequences left out.
fn width(cell: &str) -> usize {
    let mut count = 0;
    let mut in_sequence = false;
    for c in cell.chars() {
        match (in_sequence, c) {
            (false, '\u{1b}') => in_sequence = true,
            (false, _) => count += 1,
            (true, 'm') => in_sequence = false,
            (true, _) => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_their_colour() {
        let mut table = Table::new(&["NAME", "PATH", "RTT"]);
        table.row(["größe".to_owned(), "\u{1b}[32mlan\u{1b}[0m".to_owned(), "1 ms".to_owned()]);
        table.row(["a".to_owned(), "turn-udp".to_owned(), String::new()]);
        assert_eq!(
            table.lines(),
            ["NAME   PATH      RTT", "größe  \u{1b}[32mlan\u{1b}[0m       1 ms", "a      turn-udp"]
        );
    }
}

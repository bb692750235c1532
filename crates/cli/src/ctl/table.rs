//! Columns as wide as what is in them.

use std::fmt;

/// Rows of texts; numbers stand on the right.
pub(super) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heads: &[&'static str]) -> Self {
        Self {
            heads: heads.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with a text for each head.
    pub(super) fn row<const N: usize>(&mut self, cells: [&dyn fmt::Display; N]) {
        // What a client calls itself must not command the operator's terminal.
        let printable = |cell: &&dyn fmt::Display| {
            cell.to_string()
                .chars()
                .map(|c| if c.is_control() { '\u{fffd}' } else { c })
                .collect()
        };
        self.rows.push(cells.iter().map(printable).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = |number: usize| self.rows.iter().filter_map(move |row| row.get(number));
        let is_number = |text: &String| text == "-" || text.parse::<f64>().is_ok();
        let shapes: Vec<(usize, bool)> = (0..self.heads.len())
            .map(|number| {
                let widest = column(number)
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0);
                let is_numeric = !self.rows.is_empty() && column(number).all(is_number);
                (widest.max(self.heads[number].len()), is_numeric)
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for (cell, (width, is_numeric)) in cells.zip(&shapes) {
                line += &match is_numeric {
                    true => format!("{cell:>width$}  "),
                    false => format!("{cell:width$}  "),
                };
            }
            line.trim_end().to_owned()
        };
        writeln!(f, "{}", line(&mut self.heads.iter().copied()))?;
        for row in &self.rows {
            writeln!(f, "{}", line(&mut row.iter().map(String::as_str)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", "COUNT"]);
        table.row([&"a", &7]);
        table.row([&"long\u{1b}name", &1234]);
        assert_eq!(
            table.to_string(),
            "NAME       COUNT\na              7\nlong\u{fffd}name   1234\n"
        );
    }
}

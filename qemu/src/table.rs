//! Plain text tables: the first column to the left, the others to the right, but for notes.

/// A table under construction; `to_string` lays it out.
pub struct Table {
    rows: Vec<Vec<String>>,
    last_is_note: bool,
}

impl Table {
    /// A table with these column heads, of figures.
    pub fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|head| head.to_string()).collect()], last_is_note: false }
    }

    /// A table whose last column is text.
    pub fn with_notes(heads: &[&str]) -> Self {
        Self { last_is_note: true, ..Self::new(heads) }
    }

    /// Adds a row; missing cells are left empty.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0))
            .collect();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, width) in widths.iter().copied().enumerate() {
                let text = cell(row, column);
                let is_text = column == 0 || (self.last_is_note && column + 1 == columns);
                line += if column == 0 { "" } else { "  " };
                line += &if is_text { format!("{text:<width$}") } else { format!("{text:>width$}") };
            }
            writeln!(f, "{}", line.trim_end())?;
            if number == 0 {
                writeln!(f, "{}", "-".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1)))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["phase", "files", "bytes"]);
        table.row(vec!["import".into(), "7".into(), "12345".into()]);
        table.row(vec!["verify".into(), "-".into()]);
        let text = table.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "phase   files  bytes");
        assert_eq!(lines[1], "--------------------");
        assert_eq!(lines[2], "import      7  12345");
        assert_eq!(lines[3], "verify      -");
    }

    #[test]
    fn notes_are_to_the_left() {
        let mut table = Table::with_notes(&["step", "seconds", "note"]);
        table.row(vec!["a".into(), "1".into(), "some text".into()]);
        assert_eq!(table.to_string().lines().last(), Some("a           1  some text"));
    }
}

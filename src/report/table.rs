//! Columns as wide as their widest cell.

/// Rows of cells under a header; printed with two spaces between columns and nothing after the last.
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(header: [&str; N]) -> Self {
        Self { header: header.map(str::to_owned).to_vec(), rows: Vec::new() }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.header.len(), "a row has as many cells as the header");
        self.rows.push(cells.to_vec());
    }

    /// The text, one line a row; `paint` may colour the header.
    pub fn text(&self, paint: impl Fn(&str) -> String) -> String {
        let mut widths: Vec<usize> = self.header.iter().map(|cell| width(cell)).collect();
        for row in &self.rows {
            for (known, cell) in widths.iter_mut().zip(row) {
                *known = (*known).max(width(cell));
            }
        }
        let mut text = paint(&line(&self.header, &widths));
        for row in &self.rows {
            text.push('\n');
            text.push_str(&line(row, &widths));
        }
        text
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width_wanted) in cells.iter().zip(widths) {
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', width_wanted + 2 - width(cell)));
    }
    line.trim_end().to_owned()
}

/// Characters that take place on a screen: colour sequences do not.
fn width(cell: &str) -> usize {
    let mut inside = false;
    cell.chars()
        .filter(|&c| {
            let counts = !inside && c != '\u{1b}';
            inside = if inside { c != 'm' } else { c == '\u{1b}' };
            counts
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["NAME", "ID"]);
        table.row(["quickstart".into(), "1".into()]);
        table.row(["\u{1b}[32mb\u{1b}[0m".into(), "2".into()]);
        assert_eq!(
            table.text(str::to_owned),
            "NAME        ID\nquickstart  1\n\u{1b}[32mb\u{1b}[0m           2"
        );
    }
}

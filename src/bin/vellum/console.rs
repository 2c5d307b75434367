//! Standard output: text for people or JSON for machines, never both, and standard error for failures.

use crate::args::Common;
use crate::failure::Failure;
use crate::progress::Style;
use serde_json::{Value, json};
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug)]
pub(crate) struct Console {
    json: bool,
    pub(crate) style: Style,
}

impl Console {
    pub(crate) fn new(common: &Common) -> Self {
        let style = match () {
            () if common.quiet => Style::Hidden,
            () if common.progress_lines => Style::Lines,
            () if io::stderr().is_terminal() => Style::Bar,
            () => Style::Hidden,
        };
        Console { json: common.json, style }
    }

    /// A line for people.
    pub(crate) fn say(&self, text: impl fmt::Display) -> Result<(), Failure> {
        if self.json { Ok(()) } else { print_line(text) }
    }

    /// The object for machines, at the end of a command.
    pub(crate) fn json(&self, value: impl FnOnce() -> Value) -> Result<(), Failure> {
        if self.json { print_line(value()) } else { Ok(()) }
    }

    /// True if nobody reads text.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A line that is the same for both.
    pub(crate) fn line(&self, text: impl fmt::Display) -> Result<(), Failure> {
        print_line(text)
    }

    /// Reports a failure; the exit code for it.
    pub(crate) fn failed(&self, failure: &Failure, target: Option<(&Path, Option<&str>)>) -> ExitCode {
        let code = failure.exit_code();
        let advice = failure.advice(target);
        match failure {
            Failure::Output(_) if code == 0 => {}
            // The object that lists them is already out.
            Failure::Problems { .. } if self.json => {}
            _ if self.json => {
                // If standard output is gone as well, the exit code is all that can be said.
                let _ =
                    print_line(json!({"error": failure.to_string(), "advice": advice, "exit_code": code}));
            }
            _ => {
                let advice = advice.map_or(String::new(), |advice| format!("\n  {advice}"));
                let _ = writeln!(io::stderr(), "vellum: {failure}{advice}");
            }
        }
        ExitCode::from(code)
    }
}

fn print_line(text: impl fmt::Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::Output)
}

/// An aligned table: the first column to the left, the others, which are numbers, to the right.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(str::len);
    for row in rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    let mut text = String::new();
    for row in std::iter::once(&head.map(String::from)).chain(rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = match column {
                0 => write!(line, "  {cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.pop();
    text
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 index`, `2 indexes`.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Bytes in the unit that leaves one to three digits before the point.
pub(crate) fn bytes(number: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = number as f64;
    let mut unit = "B";
    for next in units {
        // What would be printed as 1000.0 belongs to the next unit.
        if value < 999.95 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    if unit == "B" { format!("{number} B") } else { format!("{value:.1} {unit}") }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key for people: its text where it is text that can be shown, or else its bytes.
pub(crate) fn shown_key(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.contains(char::is_control) => text.into(),
        _ => format!("0x{}", hex(key)),
    }
}

/// A duration with three significant digits.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        v if v < 1e-3 => format!("{:.0} us", v * 1e6),
        v if v < 1.0 => format!("{:.1} ms", v * 1e3),
        v if v < 100.0 => format!("{v:.2} s"),
        v => format!("{v:.0} s"),
    }
}

/// `value` rounded to `digits` after the point, for JSON.
pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!([0, 999, 1000, 1234567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 999, 1000, 999_949, 999_950].map(bytes),
            ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB"]
        );
        assert_eq!(bytes(u64::MAX), "18.4 EB");
        assert_eq!([0.000012, 0.0123, 1.234, 123.4].map(seconds), ["12 us", "12.3 ms", "1.23 s", "123 s"]);
    }

    #[test]
    fn keys_as_people_read_them() {
        assert_eq!(shown_key("a β".as_bytes()), "a β");
        assert_eq!([shown_key(b"a\nb"), shown_key(&[0xff, 1])], ["0x610a62", "0xff01"]);
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [["train".to_string(), "1.25 s".to_string()], ["add".to_string(), "10.50 s".to_string()]];
        assert_eq!(table(["stage", "time"], &rows), "  stage     time\n  train   1.25 s\n  add    10.50 s");
    }
}

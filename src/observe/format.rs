//! Counts, bytes, durations and shares as people read them.

/// `1234567` as `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes with a binary unit: `512 B`, `1.5 KiB`, `2.3 GiB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut amount = value as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// Seconds as `0.4s`, `12s`, `3m 05s`, `2h 07m`, `3d 04h`; `-` where it is not a finite number of 0 or more.
pub fn seconds(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return "-".to_owned();
    }
    if value < 9.95 {
        return format!("{value:.1}s");
    }
    let whole = value.round() as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3_600 => format!("{}m {:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h {:02}m", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

/// A share of 0 to 1 as `12.3%`.
pub fn share(value: f64) -> String {
    if value.is_finite() { format!("{:.1}%", value * 100.0) } else { "-".to_owned() }
}

/// A rate without decimals, `-` where there is none.
pub fn rate(value: f64) -> String {
    if value.is_finite() && value > 0.0 { count(value.round() as u64) } else { "-".to_owned() }
}

/// Lays rows out in columns under a header. `right[c]` aligns column c to the right; widths count
/// characters. No trailing spaces; every line ends with a line feed.
pub fn table(header: &[&str], right: &[bool], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut out = String::new();
        for (at, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            if at > 0 {
                out.push_str("  ");
            }
            if right.get(at).copied().unwrap_or(false) {
                out.push_str(&pad);
                out.push_str(cell);
            } else {
                out.push_str(cell);
                out.push_str(&pad);
            }
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    };
    let mut out = line(header.to_vec());
    for row in rows {
        out.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(share(0.1234), "12.3%");
        assert_eq!(rate(f64::NAN), "-");
    }

    #[test]
    fn durations_never_show_a_sixtieth_second() {
        assert_eq!(seconds(0.44), "0.4s");
        assert_eq!(seconds(59.7), "1m 00s");
        assert_eq!(seconds(185.0), "3m 05s");
        assert_eq!(seconds(3_599.9), "1h 00m");
        assert_eq!(seconds(90_000.0), "1d 01h");
        assert_eq!(seconds(f64::INFINITY), "-");
        assert_eq!(seconds(-1.0), "-");
    }

    #[test]
    fn tables_align_and_do_not_trail() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["bbb".into(), "10".into()]];
        let text = table(&["id", "n"], &[false, true], &rows);
        assert_eq!(text, "id    n\na     1\nbbb  10\n");
    }
}

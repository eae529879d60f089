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

/// [`count`] with its noun: `1 note`, `2,000 notes`, `2 queries`, `0 indexes`.
pub fn counted(value: u64, noun: &str) -> String {
    let count = count(value);
    let before = noun.chars().rev().nth(1);
    match noun.strip_suffix('y') {
        _ if value == 1 => format!("{count} {noun}"),
        Some(stem) if before.is_some_and(|c| !"aeiou".contains(c)) => format!("{count} {stem}ies"),
        _ if noun.ends_with('x') => format!("{count} {noun}es"),
        _ => format!("{count} {noun}s"),
    }
}

/// [`counted`] with a unit of progress, which is a plural: `1 shard`, `2,000 shards`.
pub fn units(value: u64, unit: &str) -> String {
    let one = match (unit.strip_suffix("ies"), unit.strip_suffix('s')) {
        (Some(stem), _) => format!("{stem}y"),
        (None, stem) => stem.unwrap_or(unit).to_owned(),
    };
    match value {
        1 => format!("1 {one}"),
        _ => format!("{} {unit}", count(value)),
    }
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

/// A rate of things, per second where it is at least one, else per minute or hour: `12 shards/s`, `4.5 shards/min`.
pub fn pace(per_second: f64, unit: &str) -> String {
    if !per_second.is_finite() || per_second <= 0.0 {
        return "-".to_owned();
    }
    let (amount, per) = match per_second {
        second if second >= 1.0 => (second, "s"),
        second if second * 60.0 >= 1.0 => (second * 60.0, "min"),
        second => (second * 3_600.0, "h"),
    };
    let amount = match amount {
        ..9.95 => format!("{amount:.1}"),
        _ => count(amount.round() as u64),
    };
    format!("{amount} {unit}/{per}")
}

/// Escapes text for element content and for attribute values in either quotes. Control characters
/// that HTML does not allow become U+FFFD.
pub fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Columns that a text takes on a terminal: 2 for wide characters (CJK, emoji), 0 for combining marks.
pub fn width(text: &str) -> usize {
    let wide = |c: u32| {
        matches!(c, 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff
            | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd)
    };
    let none =
        |c: u32| matches!(c, 0x300..=0x36f | 0x200b..=0x200f | 0x202a..=0x202e | 0xfe00..=0xfe0f);
    text.chars().map(u32::from).map(|c| if none(c) { 0 } else { 1 + usize::from(wide(c)) }).sum()
}

/// One line that a terminal cannot take for commands: control characters (escape sequences among
/// them) and direction overrides become U+FFFD, white space becomes single spaces.
pub fn printable(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let harmful =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    line.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// Lays rows out in columns under a header. `right[c]` aligns column c to the right; widths are
/// [`width`]s. Cells are made [`printable`]. No trailing spaces; every line ends with a line feed.
pub fn table(header: &[&str], right: &[bool], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let mut widths: Vec<usize> = header.iter().map(|cell| width(cell)).collect();
    for row in &rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(at, (cell, widest))| {
            let pad = " ".repeat(widest.saturating_sub(width(cell)));
            if right.get(at) == Some(&true) {
                format!("{pad}{cell}")
            } else {
                format!("{cell}{pad}")
            }
        });
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let cells = rows.iter().map(|row| row.iter().map(String::as_str).collect());
    std::iter::once(header.to_vec()).chain(cells).map(line).collect()
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
        for (value, noun, said) in [
            (1, "note", "1 note"),
            (2_000, "note", "2,000 notes"),
            (1, "query", "1 query"),
            (0, "query", "0 queries"),
            (2, "key", "2 keys"),
            (2, "index", "2 indexes"),
        ] {
            assert_eq!(counted(value, noun), said);
        }
        for (value, unit, said) in
            [(1, "shards", "1 shard"), (2, "shards", "2 shards"), (1, "queries", "1 query")]
        {
            assert_eq!(units(value, unit), said);
        }
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(share(0.1234), "12.3%");
        assert_eq!(rate(f64::NAN), "-");
        assert_eq!(pace(1_234.4, "notes"), "1,234 notes/s");
        assert_eq!(pace(2.0, "shards"), "2.0 shards/s");
        // A million vectors in four minutes.
        assert_eq!(pace(1.0 / 240.0, "shards"), "15 shards/h");
        assert_eq!(pace(0.1, "shards"), "6.0 shards/min");
        assert_eq!(pace(0.0, "shards"), "-");
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
        let rows =
            [["\u{7b14}\u{8bb0}", "x"], ["e\u{301}tat", "y"]].map(|r| r.map(String::from).to_vec());
        let text = table(&["t", "k"], &[false, false], &rows);
        assert_eq!(text, "t     k\n\u{7b14}\u{8bb0}  x\ne\u{301}tat  y\n");
    }

    #[test]
    fn nothing_from_a_note_reaches_the_terminal_as_a_command() {
        let text = printable("a\u{1b}[2J\nb\t\u{202e}c\u{9b}31m");
        assert_eq!(text, "a\u{fffd}[2J b \u{fffd}c\u{fffd}31m");
        let rows = vec![vec!["\u{1b}]0;title\u{7}".to_owned()]];
        assert!(!table(&["x"], &[false], &rows).contains('\u{1b}'));
    }
}

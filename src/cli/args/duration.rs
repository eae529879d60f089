//! Durations on the command line: `90s`, `45m`, `2h`, `1h30m`, `1d`.

use std::time::Duration;

/// Parses a duration; units must fall from left to right, each at most once.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
    let example = "write e.g. 90s, 45m, 2h or 1h30m";
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("empty; {example}"));
    }
    let mut seconds: u64 = 0;
    let mut units = UNITS.as_slice();
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let unit =
            tail.chars().next().ok_or_else(|| format!("no unit after {number}; {example}"))?;
        let at =
            units.iter().position(|(name, _)| *name == unit).filter(|_| digits > 0).ok_or_else(
                || format!("`{text}` is not numbers with the units d, h, m and s; {example}"),
            )?;
        if unit == 'm' && tail.starts_with("ms") {
            return Err(format!(
                "`{text}` has milliseconds, and the smallest unit is a second; {example}"
            ));
        }
        let amount: u64 = number.parse().map_err(|_| format!("{number} is too large"))?;
        seconds = amount
            .checked_mul(units[at].1)
            .and_then(|part| seconds.checked_add(part))
            .ok_or_else(|| format!("{text} is too long"))?;
        units = &units[at + 1..];
        rest = &tail[unit.len_utf8()..];
    }
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_or_say_how() {
        for (text, seconds) in [
            ("90s", 90),
            ("45m", 2_700),
            ("2h", 7_200),
            ("1h30m", 5_400),
            ("1d2h3m4s", 93_784),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert!(parse("1ms").unwrap_err().starts_with("`1ms` has milliseconds"));
        assert!(parse("1h5").unwrap_err().starts_with("no unit after 5"));
        for wrong in [
            "",
            "90",
            "h",
            "1x",
            "-1s",
            "30m1h",
            "1h1h",
            "1.5h",
            "99999999999999999999s",
            "999999999999999999d",
            "1h \u{7b14}",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

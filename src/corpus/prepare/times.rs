//! Points of time, read from the spellings that leave no doubt: ISO 8601 with RFC 3339, and RFC 2822.

use arrow::compute::kernels::cast_utils::string_to_datetime;
use chrono::{DateTime, Utc};

/// Digits of a fraction of a second that count.
const FRACTION_DIGITS: u32 = 18;
const SECOND: u64 = 10_u64.pow(FRACTION_DIGITS);
const DAY: i64 = 86_400;

/// A point of time of any year. What names no zone is UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment {
    /// Since 1970.
    seconds: i64,
    /// In units of 10^-18 seconds; more than a second within a leap second.
    fraction: u64,
}

/// The moment that a text says, or `None` where it is not a time or an ambiguous one (`09/01/2024`).
pub(super) fn moment(text: &str) -> Option<Moment> {
    Rest(text.as_bytes()).iso_8601().or_else(|| {
        // Names of time zones, and the dates of mails.
        let named = string_to_datetime(&Utc, text).ok();
        let time = named.or_else(|| DateTime::parse_from_rfc2822(text).ok().map(|t| t.to_utc()))?;
        let nanos = u64::from(time.timestamp_subsec_nanos());
        Some(Moment { seconds: time.timestamp(), fraction: nanos * (SECOND / 1_000_000_000) })
    })
}

/// What is not read yet.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// A date, alone or with a time, with or without a zone. Wider than the standard: months, days and hours need no
    /// leading zero, a date may be written with `/` or `.` where the year comes first, and years may have more than
    /// four digits.
    fn iso_8601(mut self) -> Option<Moment> {
        let sign = self.eat(b"+-");
        let compact = self.run() == 8;
        let (year, month, day) = if compact {
            let date = self.number(8, 8)?;
            (date / 10_000, date / 100 % 100, date % 100)
        } else {
            let year = self.number(4, 9)?;
            let separator = self.eat(b"-/.")?;
            let month = self.number(1, 2)?;
            let day = match self.eat(&[separator]) {
                Some(_) => self.number(1, 2)?,
                // A month alone is `2024-09`; `2024.09` may be anything.
                None if separator == b'-' && self.0.is_empty() => 1,
                None => return None,
            };
            (year, month, day)
        };
        let year = if sign == Some(b'-') { -year } else { year };
        let midnight = days_since_1970(year, month, day)? * DAY;
        if self.0.is_empty() {
            // Eight digits alone are a number.
            return (!compact).then_some(Moment { seconds: midnight, fraction: 0 });
        }
        self.eat(b"Tt ")?;
        self.spaces();
        let (second_of_day, fraction) = self.time()?;
        self.spaces();
        let offset = self.offset()?;
        let seconds = midnight + second_of_day - offset;
        self.0.is_empty().then_some(Moment { seconds, fraction })
    }

    /// A time of day in seconds, and what is left of a second.
    fn time(&mut self) -> Option<(i64, u64)> {
        let (hour, minute, second) = match self.run() {
            6 => {
                let time = self.number(6, 6)?;
                (time / 10_000, time / 100 % 100, time % 100)
            }
            4 => {
                let time = self.number(4, 4)?;
                (time / 100, time % 100, 0)
            }
            _ => {
                let hour = self.number(1, 2)?;
                self.eat(b":")?;
                let minute = self.number(2, 2)?;
                let second = if self.eat(b":").is_some() { self.number(2, 2)? } else { 0 };
                (hour, minute, second)
            }
        };
        let fraction = if self.eat(b".,").is_some() { self.fraction()? } else { 0 };
        let midnight = (hour, minute, second, fraction) == (24, 0, 0, 0);
        if (hour > 23 && !midnight) || minute > 59 || second > 60 {
            return None;
        }
        // A leap second lies between the second before it and the one after.
        let leap = second == 60;
        let whole = hour * 3600 + minute * 60 + second - i64::from(leap);
        Some((whole, fraction + u64::from(leap) * SECOND))
    }

    fn fraction(&mut self) -> Option<u64> {
        let digits = u32::try_from(self.run()).ok()?;
        let places = FRACTION_DIGITS.checked_sub(digits)?;
        let value = u64::try_from(self.number(1, FRACTION_DIGITS as usize)?).ok()?;
        Some(value * 10_u64.pow(places))
    }

    /// Seconds that a zone is ahead of UTC; none where no zone is named.
    fn offset(&mut self) -> Option<i64> {
        for name in ["Z", "UTC", "GMT"] {
            if self.0.eq_ignore_ascii_case(name.as_bytes()) {
                self.0 = &[];
                return Some(0);
            }
        }
        let Some(sign) = self.eat(b"+-") else { return Some(0) };
        let (hours, minutes, seconds) = if self.run() == 4 {
            let offset = self.number(4, 4)?;
            (offset / 100, offset % 100, 0)
        } else {
            let hours = self.number(2, 2)?;
            let minutes = if self.eat(b":").is_some() { self.number(2, 2)? } else { 0 };
            let seconds = if self.eat(b":").is_some() { self.number(2, 2)? } else { 0 };
            (hours, minutes, seconds)
        };
        if hours > 23 || minutes > 59 || seconds > 59 {
            return None;
        }
        let ahead = hours * 3600 + minutes * 60 + seconds;
        Some(if sign == b'-' { -ahead } else { ahead })
    }

    fn eat(&mut self, any_of: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        any_of.contains(first).then(|| {
            self.0 = rest;
            *first
        })
    }

    fn spaces(&mut self) {
        while self.eat(b" ").is_some() {}
    }

    /// How many digits come next.
    fn run(&self) -> usize {
        self.0.iter().take_while(|byte| byte.is_ascii_digit()).count()
    }

    /// All the digits that come next, as one number, where there are as many as that.
    fn number(&mut self, least: usize, most: usize) -> Option<i64> {
        let digits = self.run();
        if digits < least || digits > most {
            return None;
        }
        let (number, rest) = self.0.split_at(digits);
        self.0 = rest;
        Some(number.iter().fold(0, |all, digit| all * 10 + i64::from(digit - b'0')))
    }
}

/// Days from 1970 to a date of the Gregorian calendar; `None` for a date that it does not have.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let march_year = if month > 2 { year } else { year - 1 };
    let month = (month + 9) % 12;
    let leap_days =
        march_year.div_euclid(4) - march_year.div_euclid(100) + march_year.div_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    // March 1st of the year 0 is 719,468 days before 1970.
    Some(march_year * 365 + leap_days + day_of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn at(text: &str) -> Moment {
        moment(text).unwrap_or_else(|| panic!("{text} is a time"))
    }

    #[test]
    fn every_spelling_of_a_moment_is_one() {
        for text in [
            "2003-07-01T08:52:37Z",
            "2003-07-01 08:52:37",
            "2003-07-01T08:52:37.000",
            "2003-7-1 8:52:37",
            "2003/07/01 08:52:37",
            "2003.07.01 08:52:37",
            "20030701T085237Z",
            "20030701t085237,0z",
            "2003-07-01T10:52:37+02:00",
            "2003-07-01 10:52:37+02",
            "2003-07-01 10:52:37.000 +0200",
            "2003-07-01 04:52:37-04:00:00",
            "2003-07-01 08:52:37 UTC",
            "2003-07-01 10:52:37 Europe/Berlin",
            "Tue, 1 Jul 2003 10:52:37 +0200",
            "1 Jul 2003 08:52:37 GMT",
        ] {
            assert_eq!(at(text).seconds, 1_057_049_557, "{text}");
            assert_eq!(at(text).fraction, 0, "{text}");
        }
        assert_eq!(at("1970-01-01"), at("1969-12-31T24:00"));
        assert_eq!(at("2024-09"), at("2024/9/1"));
    }

    #[test]
    fn later_is_greater_in_every_year() {
        let order = [
            "-262144-12-31",
            "-0044-03-15",
            "0000-01-01",
            "0001-01-01T00:00:00Z",
            "1600-02-29",
            "1969-12-31T23:59:59.5Z",
            "1970-01-01",
            "2016-12-31T23:59:59.999999999999999999Z",
            "2016-12-31T23:59:60Z",
            "2016-12-31T23:59:60.5Z",
            "2017-01-01T00:00:00Z",
            "2017-01-01T00:00:00.0000000000001Z",
            "2017-01-01T00:00:00.1Z",
            "2024-9-1",
            "2024-10-1",
            "2262-04-11T23:47:16.854775808Z",
            "9999-12-31T23:59:59.999999999Z",
            "10000-01-01",
            "+262144-01-01",
        ];
        for (earlier, later) in order.iter().zip(&order[1..]) {
            assert!(at(earlier) < at(later), "{earlier} < {later}");
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let first = chrono::NaiveDate::from_ymd_opt(-801, 1, 1).unwrap();
        let epoch = chrono::NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
        for step in 0..20_000 {
            use chrono::Datelike;
            let date = first + chrono::Days::new(step * 67);
            let (year, month, day) = (date.year(), date.month(), date.day());
            let days = days_since_1970(year.into(), month.into(), day.into());
            assert_eq!(days, Some((date - epoch).num_days()), "{date}");
        }
    }

    #[test]
    fn what_may_mean_two_things_is_no_moment() {
        for text in [
            "09/01/2024",
            "01.09.2024",
            "1-9-2024",
            "09/01/24",
            "24-09-01",
            "2024-13-01",
            "2023-02-29",
            "2024-09-31",
            "2024.10",
            "2024-245",
            "20240901",
            "2024-09-01T25:00:00Z",
            "2024-09-01T24:00:01Z",
            "2024-09-01 10",
            "2024-09-01 10:5",
            "2024-09-01 3:04 PM",
            "2024-09-01T10:00:00 CEST",
            "2024-09-01T10:00:00+2",
            "2024-09-01T10:00:00.",
            "2024-09-01x",
            "Wed, 1 Jul 2003 10:52:37 +0200",
            "yesterday",
            "v10",
            "1.5",
            "",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }
}

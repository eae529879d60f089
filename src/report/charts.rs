//! Charts as inline SVG. Text is escaped, so that no page can be broken by a note id or a message.

use std::fmt::Write as _;

use crate::observe::format::{self, escape_html as escape};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 20.0;
const PLOT: f64 = HEIGHT - TOP - BOTTOM;

fn open_svg(label: &str, height: f64) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n",
        escape(label)
    )
}

/// Smallest of 1, 2, 5 times a power of ten that is at least `value`: the top of an axis.
fn axis_top(value: f64) -> f64 {
    if !value.is_finite() || value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].iter().map(|step| step * power).find(|&top| top >= value).unwrap_or(value)
}

fn grid(out: &mut String, top: f64, label: &dyn Fn(f64) -> String) {
    for step in 0..=4 {
        let share = f64::from(step) / 4.0;
        let y = TOP + PLOT * (1.0 - share);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            escape(&label(top * share))
        );
    }
}

/// A histogram: (label below the bar, count, text of the tooltip).
pub fn bar_chart(label: &str, bars: &[(String, u64, String)]) -> String {
    let mut out = open_svg(label, HEIGHT);
    let most = bars.iter().map(|bar| bar.1).max().unwrap_or(0);
    let top = axis_top(most as f64);
    grid(&mut out, top, &|value| format::count(value.round() as u64));
    let slot = (WIDTH - LEFT) / bars.len().max(1) as f64;
    for (at, (name, value, tip)) in bars.iter().enumerate() {
        let height = PLOT * *value as f64 / top;
        let x = LEFT + slot * at as f64;
        let _ = writeln!(
            out,
            "<rect class=\"bar\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"2\">\
             <title>{}</title></rect><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x + slot * 0.1,
            TOP + PLOT - height,
            slot * 0.8,
            escape(tip),
            x + slot / 2.0,
            HEIGHT - 8.0,
            escape(name)
        );
    }
    out.push_str("</svg>\n");
    out
}

/// A value between 0 and 1 with its interval.
#[derive(Debug, Clone, Copy)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// The value.
    pub value: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    fn is_finite(&self) -> bool {
        [self.low, self.value, self.high].iter().all(|value| value.is_finite())
    }
}

/// Values between 0 and 1 side by side: (label below, value, text of the tooltip). Slots are those of [`bar_chart`].
pub fn interval_series(label: &str, points: &[(String, Option<Interval>, String)]) -> String {
    let mut out = open_svg(label, HEIGHT);
    let known = || points.iter().filter_map(|point| point.1).filter(Interval::is_finite);
    // Start at a round twentieth below everything, so that 0.951 and 0.987 are told apart.
    let least = known().map(|interval| interval.low).fold(1.0, f64::min).clamp(0.0, 1.0);
    let start = ((least * 20.0).floor() / 20.0).min(0.95);
    let span = 1.0 - start;
    grid(&mut out, 1.0, &|share| format!("{:.3}", start + span * share));
    let y = |value: f64| TOP + PLOT * (1.0 - (value.clamp(start, 1.0) - start) / span);
    let slot = (WIDTH - LEFT) / points.len().max(1) as f64;
    let x = |at: usize| LEFT + slot * (at as f64 + 0.5);
    let mut path = String::new();
    for (at, (_, interval, _)) in points.iter().enumerate() {
        if let Some(interval) = interval.filter(Interval::is_finite) {
            let to = if path.is_empty() { "M" } else { " L" };
            let _ = write!(path, "{to}{:.1} {:.1}", x(at), y(interval.value));
        }
    }
    let _ = writeln!(out, "<path class=\"curve\" d=\"{path}\"/>");
    for (at, (name, interval, tip)) in points.iter().enumerate() {
        let x = x(at);
        if let Some(Interval { low, value, high }) = interval.filter(Interval::is_finite) {
            let _ = writeln!(
                out,
                "<line class=\"whisker\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
                 <circle class=\"bar\" cx=\"{x:.1}\" cy=\"{:.1}\" r=\"5\"><title>{}</title></circle>",
                y(low),
                y(high),
                y(value),
                escape(tip)
            );
        }
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 8.0,
            escape(name)
        );
    }
    out.push_str("</svg>\n");
    out
}

/// A curve over time: (seconds, value); points in order of time. Values that are not finite are left out.
pub fn line_chart(label: &str, points: &[(f64, f64)]) -> String {
    let points: Vec<(f64, f64)> =
        points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let mut out = open_svg(label, HEIGHT);
    let top = axis_top(points.iter().map(|point| point.1).fold(0.0, f64::max));
    grid(&mut out, top, &|value| format::count(value.round() as u64));
    let end = points.iter().map(|point| point.0).fold(0.0, f64::max).max(1e-9);
    let place = |(x, y): (f64, f64)| {
        (LEFT + (WIDTH - LEFT) * (x / end), TOP + PLOT * (1.0 - (y / top).clamp(0.0, 1.0)))
    };
    if let (Some(first), Some(last)) = (points.first(), points.last()) {
        let mut path = String::new();
        for (at, point) in points.iter().enumerate() {
            let (x, y) = place(*point);
            let _ = write!(path, "{}{x:.1} {y:.1}", if at == 0 { "M" } else { " L" });
        }
        let base = TOP + PLOT;
        let _ = writeln!(
            out,
            "<path class=\"area\" d=\"{path} L{:.1} {base:.1} L{:.1} {base:.1} Z\"/>\n<path class=\"curve\" d=\"{path}\"/>",
            place(*last).0,
            place(*first).0
        );
    }
    for (share, anchor) in [(0.0, "start"), (0.5, "middle"), (1.0, "end")] {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            LEFT + (WIDTH - LEFT) * share,
            HEIGHT - 8.0,
            format::seconds(end * share)
        );
    }
    out.push_str("</svg>\n");
    out
}

/// A value between 0 and 1 with its interval and the least that is required, on one axis.
pub fn interval_chart(
    label: &str,
    low: f64,
    value: f64,
    high: f64,
    required: Option<f64>,
) -> String {
    const TALL: f64 = 72.0;
    let mut out = open_svg(label, TALL);
    let values = [low, value, high];
    let least = values.into_iter().chain(required).fold(1.0, f64::min).clamp(0.0, 1.0);
    // Start at a round tenth below everything, so that 0.951 and 0.987 are told apart.
    let start = ((least * 10.0).floor() / 10.0).min(0.9);
    let x = |v: f64| 20.0 + (WIDTH - 40.0) * ((v.clamp(0.0, 1.0) - start) / (1.0 - start));
    let _ = writeln!(
        out,
        "<line class=\"grid\" x1=\"20\" x2=\"{:.1}\" y1=\"30\" y2=\"30\"/>",
        WIDTH - 20.0
    );
    for step in 0..=5 {
        let v = start + (1.0 - start) * f64::from(step) / 5.0;
        let _ =
            writeln!(out, "<text x=\"{:.1}\" y=\"62\" text-anchor=\"middle\">{v:.2}</text>", x(v));
    }
    if values.iter().all(|v| v.is_finite()) {
        let _ = writeln!(
            out,
            "<line class=\"whisker\" x1=\"{0:.1}\" x2=\"{1:.1}\" y1=\"30\" y2=\"30\"/>\
             <line class=\"whisker\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"22\" y2=\"38\"/>\
             <line class=\"whisker\" x1=\"{1:.1}\" x2=\"{1:.1}\" y1=\"22\" y2=\"38\"/>\
             <circle class=\"bar\" cx=\"{2:.1}\" cy=\"30\" r=\"6\"><title>{value:.4}</title></circle>",
            x(low),
            x(high),
            x(value)
        );
    }
    if let Some(required) = required {
        let _ = writeln!(
            out,
            "<line class=\"mark\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"12\" y2=\"46\"><title>required {required:.3}</title></line>",
            x(required)
        );
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_place() {
        assert_eq!(
            escape("<b a='1' c=\"2\">&\u{0}"),
            "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;\u{fffd}"
        );
    }

    #[test]
    fn axes_end_on_round_numbers() {
        assert_eq!(axis_top(0.0), 1.0);
        assert_eq!(axis_top(37.0), 50.0);
        assert_eq!(axis_top(1_001.0), 2_000.0);
        assert_eq!(axis_top(f64::NAN), 1.0);
    }

    #[test]
    fn charts_of_nothing_are_still_charts() {
        for svg in [
            bar_chart("x", &[]),
            line_chart("x", &[]),
            line_chart("x", &[(0.0, f64::NAN), (1.0, f64::INFINITY)]),
            interval_chart("x", f64::NAN, 0.5, 1.0, None),
            interval_series("x", &[]),
            interval_series("x", &[("<1>".into(), None, String::new())]),
            interval_series(
                "x",
                &[(
                    "1".into(),
                    Some(Interval { low: f64::NAN, value: 0.5, high: 1.0 }),
                    "y".into(),
                )],
            ),
        ] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}

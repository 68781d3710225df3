//! The roofline picture (Williams, Waterman, Patterson 2009): how fast operations run, over how much they compute with each
//! byte, under the ceilings of memory and arithmetic. SVG by hand, light and dark, names and values on hover.

use super::ExportError;
use std::fmt::Write as _;

/// What the picture shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Roofline {
    pub title: String,
    /// Lines under the title.
    pub notes: Vec<String>,
    /// Bytes a second that memory gives.
    pub bandwidth: f64,
    pub ceilings: Vec<Ceiling>,
    pub points: Vec<Point>,
}

/// A rate of arithmetic that is not exceeded.
#[derive(Debug, Clone, PartialEq)]
pub struct Ceiling {
    pub name: String,
    pub flops_per_second: f64,
}

/// An operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub name: String,
    /// Shown on hover, after the name.
    pub about: String,
    /// FLOP per byte. Operations that only move numbers have no place in the picture.
    pub intensity: f64,
    pub flops_per_second: f64,
    /// Index into [`Roofline::ceilings`]: whose colour the point has.
    pub ceiling: usize,
}

const WIDTH: f64 = 900.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 24.0;
const PLOT_HEIGHT: f64 = 440.0;
const BOTTOM: f64 = 52.0;
const LABEL: f64 = 10.0;
/// Of the ceilings, and of the points under each.
const SERIES: [&str; 4] = ["a", "b", "c", "d"];

const STYLE: &str = "\
text{fill:#1f2328}.soft{fill:#57606a}.page{fill:#ffffff}.grid{stroke:#dfe3e8}.frame{stroke:#8c959f;fill:none}\
.roof{fill:none;stroke-width:2}.a{stroke:#0b62b0;fill:#0b62b0}.b{stroke:#b35900;fill:#b35900}.c{stroke:#6b3fa0;fill:#6b3fa0}\
.d{stroke:#1a7f4b;fill:#1a7f4b}path.roof{fill:none}circle{stroke-width:0}\
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9aa4af}.page{fill:#0d1117}.grid{stroke:#262c36}\
.frame{stroke:#6e7681}.a{stroke:#58a6ff;fill:#58a6ff}.b{stroke:#f0a050;fill:#f0a050}.c{stroke:#b392f0;fill:#b392f0}\
.d{stroke:#56d364;fill:#56d364}}";

/// A logarithmic axis over whole decades.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Axis {
    /// Powers of ten.
    low: i32,
    high: i32,
    /// Pixels.
    from: f64,
    to: f64,
}

impl Axis {
    /// The decades around `values`, at least one.
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Axis {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for v in values {
            (low, high) = (low.min(v.log10()), high.max(v.log10()));
        }
        let low = low.floor() as i32;
        Axis { low, high: (high.ceil() as i32).max(low + 1), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.from + share * (self.to - self.from)
    }

    fn decades(&self) -> impl Iterator<Item = f64> + use<> {
        (self.low..=self.high).map(|d| 10f64.powi(d))
    }
}

/// A rate in the unit that reads best: `1.5 T`.
pub fn si(value: f64) -> String {
    for (unit, size) in [("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)] {
        if value >= size {
            return format!("{} {unit}", short(value / size));
        }
    }
    format!("{} ", short(value))
}

/// Three digits.
fn short(value: f64) -> String {
    let decimals = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => {}
            c => out.push(c),
        }
        out
    })
}

/// A box of text: left, top, width.
#[derive(Debug, Clone, Copy)]
struct Taken(f64, f64, f64);

impl Taken {
    fn hits(&self, other: &Taken) -> bool {
        let line = LABEL * 1.1;
        (self.1 - other.1).abs() < line && self.0 < other.0 + other.2 && other.0 < self.0 + self.2
    }
}

impl Roofline {
    /// The picture as an SVG document.
    ///
    /// # Errors
    /// There is no ceiling, or a number of the picture is not above zero and finite.
    pub fn to_svg(&self) -> Result<String, ExportError> {
        let bad = |what: &str| Err(ExportError::Render(format!("roofline: {what} is not a rate")));
        let fine = |x: f64| x.is_finite() && x > 0.0;
        if !fine(self.bandwidth) || self.ceilings.is_empty() {
            return bad("the copy's ceiling");
        }
        if let Some(c) = self.ceilings.iter().find(|c| !fine(c.flops_per_second)) {
            return bad(&c.name);
        }
        let broken = |p: &&Point| !fine(p.intensity) || !fine(p.flops_per_second) || p.ceiling >= self.ceilings.len();
        if let Some(p) = self.points.iter().find(broken) {
            return bad(&p.name);
        }
        Ok(self.draw())
    }

    fn draw(&self) -> String {
        let top = 34.0 + 18.0 * self.notes.len() as f64 + 14.0;
        let (bottom, height) = (top + PLOT_HEIGHT, top + PLOT_HEIGHT + BOTTOM);
        let ridges = self.ceilings.iter().map(|c| c.flops_per_second / self.bandwidth);
        let x = Axis::around(
            self.points.iter().map(|p| p.intensity).chain(ridges.flat_map(|r| [r / 2.0, r * 2.0])),
            LEFT,
            WIDTH - RIGHT,
        );
        let roofs = self.ceilings.iter().map(|c| c.flops_per_second);
        let rates = self.points.iter().map(|p| p.flops_per_second).chain(roofs.flat_map(|r| [r / 2.0, r * 1.3]));
        let y = Axis::around(rates, bottom, top);
        let mut out = String::new();
        // Writing to a String cannot fail.
        let mut line = |text: std::fmt::Arguments<'_>| {
            let _ = writeln!(out, "{text}");
        };
        line(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"Verdana, Helvetica, Arial, sans-serif\">"
        ));
        line(format_args!("<title>{}</title><style>{STYLE}</style>", escape(&self.title)));
        line(format_args!("<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>"));
        line(format_args!("<text x=\"16\" y=\"26\" font-size=\"15\">{}</text>", escape(&self.title)));
        for (i, note) in self.notes.iter().enumerate() {
            let at = 46.0 + 18.0 * i as f64;
            line(format_args!("<text class=\"soft\" x=\"16\" y=\"{at}\" font-size=\"12\">{}</text>", escape(note)));
        }
        for tick in x.decades() {
            let at = x.at(tick);
            line(format_args!("<path class=\"grid\" d=\"M{at:.1} {top}V{bottom}\"/>"));
            let (below, text) = (bottom + 18.0, short(tick));
            line(format_args!(
                "<text x=\"{at:.1}\" y=\"{below}\" font-size=\"11\" text-anchor=\"middle\">{text}</text>"
            ));
        }
        for tick in y.decades() {
            let (at, left) = (y.at(tick), LEFT - 8.0);
            line(format_args!("<path class=\"grid\" d=\"M{LEFT} {at:.1}H{}\"/>", WIDTH - RIGHT));
            line(format_args!(
                "<text x=\"{left}\" y=\"{:.1}\" font-size=\"11\" text-anchor=\"end\">{}</text>",
                at + 4.0,
                si(tick).trim_end()
            ));
        }
        let (middle, low) = ((LEFT + WIDTH - RIGHT) / 2.0, bottom + 40.0);
        line(format_args!(
            "<text class=\"soft\" x=\"{middle}\" y=\"{low}\" font-size=\"12\" text-anchor=\"middle\">FLOP per byte</text>"
        ));
        let half = (top + bottom) / 2.0;
        line(format_args!(
            "<text class=\"soft\" x=\"18\" y=\"{half}\" font-size=\"12\" text-anchor=\"middle\" \
             transform=\"rotate(-90 18 {half})\">FLOP/s</text>"
        ));
        let (plot_width, copy) = (WIDTH - RIGHT - LEFT, si(self.bandwidth));
        line(format_args!(
            "<rect class=\"frame\" x=\"{LEFT}\" y=\"{top}\" width=\"{plot_width}\" height=\"{PLOT_HEIGHT}\"/>"
        ));
        // Below its ridge every roof is the same slope; it is drawn from where it enters the plot.
        let start = (10f64.powi(y.low) / self.bandwidth).max(10f64.powi(x.low));
        let mut taken: Vec<Taken> = Vec::new();
        for (i, c) in self.ceilings.iter().enumerate() {
            let (series, ridge) = (SERIES[i % SERIES.len()], c.flops_per_second / self.bandwidth);
            let (x0, y0) = (x.at(start.min(ridge)), y.at(start.min(ridge) * self.bandwidth));
            let (x1, y1, end) = (x.at(ridge), y.at(c.flops_per_second), WIDTH - RIGHT);
            let (name, rate) = (escape(&c.name), si(c.flops_per_second));
            line(format_args!(
                "<path class=\"roof {series}\" d=\"M{x0:.1} {y0:.1}L{x1:.1} {y1:.1}H{end}\"><title>{name}: {rate}FLOP/s; \
                 copy: {copy}B/s</title></path>"
            ));
            let (text, above) = (format!("{name} {rate}FLOP/s"), y1 - 6.0);
            line(format_args!(
                "<text x=\"{}\" y=\"{above:.1}\" font-size=\"11\" text-anchor=\"end\">{text}</text>",
                end - 6.0
            ));
            taken.push(Taken(end - 6.0 - 6.4 * text.len() as f64, above, 6.4 * text.len() as f64));
        }
        for p in &self.points {
            taken.push(Taken(x.at(p.intensity) - 5.0, y.at(p.flops_per_second) + 3.5, 10.0));
        }
        for p in &self.points {
            let (cx, cy, series) = (x.at(p.intensity), y.at(p.flops_per_second), SERIES[p.ceiling % SERIES.len()]);
            let (name, about) = (escape(&p.name), escape(&p.about));
            line(format_args!(
                "<circle class=\"{series}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4\"><title>{name}: {about}</title></circle>"
            ));
            let width = 0.62 * LABEL * p.name.chars().count() as f64;
            let left = if cx + 8.0 + width > WIDTH - RIGHT { cx - 8.0 - width } else { cx + 8.0 };
            // Beside the point, else the nearest free line below or above.
            let free = |at: &f64| {
                let mine = Taken(left, *at, width);
                *at > top && *at < bottom && !taken.iter().any(|t| t.hits(&mine))
            };
            let places = (0..12).flat_map(|n| [cy + 3.5 + 11.0 * f64::from(n), cy + 3.5 - 11.0 * f64::from(n)]);
            let at = places.into_iter().find(free).unwrap_or(cy + 3.5);
            taken.push(Taken(left, at, width));
            line(format_args!(
                "<text x=\"{left:.1}\" y=\"{at:.1}\" font-size=\"{LABEL}\">{name}<title>{name}: {about}</title></text>"
            ));
        }
        line(format_args!("</svg>"));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_told_in_three_digits() {
        let told = [1.0, 999.0, 1500.0, 2.345e9, 99.96e12, 5e14, 0.25].map(si);
        assert_eq!(told, ["1 ", "999 ", "1.5 k", "2.35 G", "100 T", "500 T", "0.25 "]);
    }

    #[test]
    fn an_axis_has_whole_decades() {
        let axis = Axis::around([0.3, 40.0].into_iter(), 0.0, 300.0);
        assert_eq!((axis.low, axis.high), (-1, 2));
        assert_eq!((axis.at(0.1), axis.at(1.0), axis.at(100.0)), (0.0, 100.0, 300.0));
        assert_eq!(Axis::around([10.0].into_iter(), 0.0, 1.0).high, 2);
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        let point = |flops_per_second| Point {
            name: "gemm".into(),
            about: String::new(),
            intensity: 1.0,
            flops_per_second,
            ceiling: 0,
        };
        let with = |bandwidth, points| Roofline {
            title: String::new(),
            notes: vec![],
            bandwidth,
            ceilings: vec![Ceiling { name: "float32".into(), flops_per_second: 1e9 }],
            points,
        };
        assert!(with(1e9, vec![point(1e8)]).to_svg().is_ok());
        for broken in [with(0.0, vec![]), with(1e9, vec![point(0.0)]), with(1e9, vec![point(f64::NAN)])] {
            assert!(matches!(broken.to_svg(), Err(ExportError::Render(_))));
        }
    }
}

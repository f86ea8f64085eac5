//! Scales and shapes: as much of SVG as the charts need.
//!
//! Colours are the page's: a shape names its class, and draws in `currentColor`.

#![forbid(unsafe_code)]

use std::fmt::{Display, Write as _};

/// Where values lie on an axis, in pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    kind: Kind,
    /// As the kind sees them.
    values: (f64, f64),
    pixels: (f64, f64),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Linear,
    Log,
    /// Parts of one, the nearer to one the wider: 0.9, 0.99 and 0.999 are equally far apart.
    Nines,
}

impl Scale {
    pub(crate) fn linear(values: (f64, f64), pixels: (f64, f64)) -> Self {
        Self::new(Kind::Linear, values, pixels)
    }

    /// For values above 0.
    pub(crate) fn log(values: (f64, f64), pixels: (f64, f64)) -> Self {
        Self::new(Kind::Log, values, pixels)
    }

    /// For parts below 1.
    pub(crate) fn nines(values: (f64, f64), pixels: (f64, f64)) -> Self {
        Self::new(Kind::Nines, values, pixels)
    }

    fn new(kind: Kind, values: (f64, f64), pixels: (f64, f64)) -> Self {
        Self { kind, values: (kind.seen(values.0), kind.seen(values.1)), pixels }
    }

    /// Beyond the ends it stays at the end, so that nothing is drawn outside.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let (first, last) = self.values;
        let part = (self.kind.seen(value) - first) / (last - first);
        // What is no number, as of an axis without a length, lies at its start.
        let part = if part.is_nan() { 0.0 } else { part.clamp(0.0, 1.0) };
        self.pixels.0 + part * (self.pixels.1 - self.pixels.0)
    }

    /// Round values from end to end, half a dozen or so.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let (first, last) = self.values;
        match self.kind {
            Kind::Linear => linear_ticks(first, last),
            Kind::Log => log_ticks(first, last),
            Kind::Nines => {
                let known = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999];
                known.into_iter().filter(|part| self.kind.seen(*part) <= last).collect()
            }
        }
    }
}

impl Kind {
    fn seen(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.log10(),
            Self::Nines => -(1.0 - value).log10(),
        }
    }
}

fn linear_ticks(first: f64, last: f64) -> Vec<f64> {
    let span = last - first;
    if span <= 0.0 || !span.is_finite() {
        return vec![first];
    }
    let rough = span / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * power);
    let step = step.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(power);
    let count = (0_u32..TICKS_MAX).map(|number| (first / step - 1e-9).ceil() + f64::from(number));
    // Multiplied and not summed, or the last would be off by what was rounded before.
    count.map(|number| number * step).take_while(|tick| *tick <= last + span * 1e-9).collect()
}

fn log_ticks(first: f64, last: f64) -> Vec<f64> {
    let steps: &[f64] = if last - first > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let decades = (-12..=12).map(|power| 10_f64.powi(power));
    let all = decades.flat_map(|decade| steps.iter().map(move |step| step * decade));
    all.filter(|tick| (first - 1e-9..=last + 1e-9).contains(&tick.log10())).collect()
}

/// An image that is being drawn.
pub(crate) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    pub(crate) const fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.write(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    /// `title` is shown where the pointer rests.
    pub(crate) fn bar(&mut self, class: &str, from: (f64, f64), size: (f64, f64), title: &str) {
        let ((x, y), (width, height), title) = (from, size, escaped(title));
        self.write(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\" rx=\"2\"><title>{title}</title></rect>"
        ));
    }

    pub(crate) fn dot(&mut self, class: &str, at: (f64, f64), radius: f64, title: &str) {
        let ((x, y), title) = (at, escaped(title));
        self.write(format_args!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\">\
             <title>{title}</title></circle>"
        ));
    }

    pub(crate) fn path(&mut self, class: &str, points: &[(f64, f64)], title: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let (points, title) = (points.join(" "), escaped(title));
        self.write(format_args!(
            "<polyline class=\"{class}\" points=\"{points}\"><title>{title}</title></polyline>"
        ));
    }

    /// `anchor` says which end of the text is there: `start`, `middle` or `end`.
    pub(crate) fn text(&mut self, class: &str, at: (f64, f64), anchor: &str, text: &str) {
        let ((x, y), text) = (at, escaped(text));
        self.write(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">\
             {text}</text>"
        ));
    }

    /// The element, with a name for those who hear the page.
    pub(crate) fn finish(self, label: &str) -> String {
        let Self { width, height, body } = self;
        let label = escaped(label);
        format!(
            "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\">{body}</svg>"
        )
    }

    fn write(&mut self, what: impl Display) {
        writeln!(self.body, "{what}").expect("a string takes what is written");
    }
}

/// Text that stands for itself in HTML and in attributes.
pub(crate) fn escaped(text: &str) -> String {
    let pairs = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(*from, to))
}

const TICKS_MAX: u32 = 20;

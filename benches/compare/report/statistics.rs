//! The middle of some values, and between what they lie.

#![forbid(unsafe_code)]

/// A median with its quartiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) middle: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Nothing of no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |part| quantile(&values, part);
        Some(Self { low: at(0.25)?, middle: at(0.5)?, high: at(0.75)? })
    }
}

/// Where that part of the sorted values lies below, between the two next to it in proportion.
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let place = part * (sorted.len().checked_sub(1)?) as f64;
    let below = sorted.iter().enumerate().take_while(|(at, _)| *at as f64 <= place).last();
    let (at, below) = below?;
    let above = sorted.get(at + 1).unwrap_or(below);
    Some(below + (above - below) * (place - at as f64))
}

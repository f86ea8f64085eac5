//! The fuzzer's way to parts that are not public: bytes become steps, which a part and its model
//! take side by side.
//!
//! Compiled for `fuzz/` (which sets `cfg(fuzzing)`) and for the tests, never for users. A part
//! keeps its model beside itself; here only bytes are read. Any bytes are valid: what is cut off is
//! left out.

#![forbid(unsafe_code)]

use std::iter;

use crate::options::Rate;
use crate::pdu::{ByteReader, Underflow};
use crate::reactor::{meter_model, timer_model};

/// A timing wheel against a sorted map.
///
/// # Panics
/// Where they differ.
pub fn timers(bytes: &[u8]) {
    let mut reader = ByteReader::new(bytes);
    timer_model::run(iter::from_fn(|| timer_step(&mut reader).ok()));
}

fn timer_step(reader: &mut ByteReader<'_>) -> Result<timer_model::Step, Underflow> {
    use timer_model::Step;
    Ok(match reader.u8()? % 8 {
        0 | 1 => Step::ArmLater(span(reader)?),
        2 => Step::ArmAt(span(reader)?),
        3 => Step::ArmAt(u64::MAX - u64::from(reader.u8()? % 4)),
        4 => Step::Cancel(usize::from(reader.u16()?)),
        5 => Step::Advance(span(reader)?),
        6 => Step::Pop { count: usize::from(reader.u8()?), back: 0 },
        _ => Step::Pop { count: usize::from(reader.u8()?), back: u64::from(reader.u8()?) },
    })
}

/// Token buckets against plain arithmetic.
///
/// # Panics
/// Where they differ.
pub fn rates(bytes: &[u8]) {
    let mut reader = ByteReader::new(bytes);
    let Ok(rate) = rate(&mut reader) else { return };
    let Ok(choice) = reader.u8() else { return };
    if choice % 2 == 0 {
        let Ok(start_ms) = span(&mut reader) else { return };
        meter_model::run(rate, start_ms, iter::from_fn(|| rate_step(&mut reader).ok()));
    } else {
        let send = |reader: &mut ByteReader<'_>| Some((span(reader).ok()?, length(reader).ok()?));
        meter_model::pace(rate, u64::from(choice) << 6, iter::from_fn(|| send(&mut reader)));
    }
}

fn rate(reader: &mut ByteReader<'_>) -> Result<Rate, Underflow> {
    let [per_second, burst] = [reader.u32()?, reader.u32()?];
    Ok(Rate::per_second(per_second).burst(burst))
}

fn rate_step(reader: &mut ByteReader<'_>) -> Result<meter_model::Step, Underflow> {
    use meter_model::Step;
    Ok(match reader.u8()? % 3 {
        0 => Step::Fill(span(reader)?),
        1 => Step::Take(length(reader)?),
        _ => Step::HalfFull,
    })
}

/// More than anybody receives at once. Where lengths saturate is for a test of its own.
fn length(reader: &mut ByteReader<'_>) -> Result<usize, Underflow> {
    span(reader).map(|bits| usize::try_from(bits.min(1 << 40)).unwrap_or(usize::MAX))
}

/// A number of few bits or of many, in as many bytes as it needs.
fn span(reader: &mut ByteReader<'_>) -> Result<u64, Underflow> {
    let shift = u32::from(reader.u8()? % 64);
    let bits = match shift {
        0..8 => u64::from(reader.u8()?),
        8..16 => u64::from(reader.u16()?),
        _ => u64::from(reader.u32()?),
    };
    // The value's own low bits fill the place that the shift opens.
    Ok(bits << shift.saturating_sub(8) | bits)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::{fs, panic};

    use super::*;

    /// What the fuzzer has found worth keeping goes well; without its folder, as in the published
    /// package, there is nothing to try.
    #[test]
    fn the_committed_corpora_pass() {
        for (name, target) in [("timers", timers as fn(&[u8])), ("rates", rates)] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let Ok(entries) = fs::read_dir(folder) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                let bytes = fs::read(&path).unwrap();
                let passed = panic::catch_unwind(|| target(&bytes));
                assert!(passed.is_ok(), "{}", path.display());
            }
        }
    }

    /// Any bytes are steps, whatever is missing at their end.
    #[test]
    fn any_bytes_are_steps() {
        let bytes: Vec<u8> = (0..=255).cycle().step_by(7).take(600).collect();
        for len in 0..bytes.len() {
            timers(&bytes[..len]);
            rates(&bytes[..len]);
            rates(&bytes[len..]);
        }
    }
}

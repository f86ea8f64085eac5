//! What the benches are made of: the servers, the load, and the processes they run in.
//!
//! Start with `process.rs` for how a server is started and ended, `generator.rs` for what it has
//! to bear, `plain_epoll.rs` for the yardstick and `ours.rs` for the library's own server.

#![allow(dead_code, reason = "shared by benches, none of which needs all of it")]

pub(crate) mod fanout;
pub(crate) mod generator;
pub(crate) mod ours;
pub(crate) mod plain_epoll;
pub(crate) mod process;
pub(crate) mod schedule;
pub(crate) mod sys;
pub(crate) mod system_calls;

/// Length of a PDU's header in bytes.
pub(crate) const HEADER_LEN: usize = 16;

/// The header of a PDU with that many bytes of payload: all fields big-endian, u32 length with
/// the header itself, then six of u16: version, flag, service, command, sequence, reserved.
pub(crate) fn header(payload_len: usize, sequence: u16) -> [u8; HEADER_LEN] {
    const VERSION: u16 = 1;
    const SERVICE: u16 = 7;
    const COMMAND: u16 = 1;
    let len = u32::try_from(HEADER_LEN + payload_len).expect("payloads are 1 MiB at most");
    let mut bytes = [0; HEADER_LEN];
    bytes[0..4].copy_from_slice(&len.to_be_bytes());
    bytes[4..6].copy_from_slice(&VERSION.to_be_bytes());
    bytes[8..10].copy_from_slice(&SERVICE.to_be_bytes());
    bytes[10..12].copy_from_slice(&COMMAND.to_be_bytes());
    bytes[12..14].copy_from_slice(&sequence.to_be_bytes());
    bytes
}

/// The middle of the values, or the mean of the two in the middle; NaN of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

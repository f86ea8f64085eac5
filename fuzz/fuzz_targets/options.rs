//! Options of any value, of a whole `Netlib` and of its sockets: those within the bounds that the
//! docs name are taken and read back as they were set, the others are refused, and nothing panics.
//!
//! The model restates the bounds and remembers what was taken. On epoll, as no option but the
//! ring's own belongs to a backend.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use uring_netlib::pdu::{ByteReader, Endian, FrameSpec, LengthCounts, Underflow};
use uring_netlib::{
    Backend, BacklogLimits, BuildError, Delivery, Event, Handle, Limits, Liveness, Netlib, Options,
    Rate,
};

fuzz_target!(|bytes: &[u8]| {
    let mut reader = ByteReader::new(bytes);
    let Ok(Some((mut net, mut model))) = build(&mut reader) else { return };
    let listener = net.listen("@netlib-fuzz-options", ignore, 0).or_else(|_| {
        // Another fuzzer on this machine has the name.
        net.listen("127.0.0.1:0", ignore, 0)
    });
    let listener = listener.expect("a free address");
    while set_one(&mut net, listener, &mut model, &mut reader).is_ok() {
        model.expect_read_back(&mut net, listener);
    }
    // The limits hold for sockets that are made afterwards and never asked.
    net.turn(&mut (), Duration::ZERO).expect("a turn");
});

fn ignore(_: &mut (), _: &mut Netlib<()>, _: Handle, _: Event<'_>) {}

/// What a socket was set to last.
struct Model {
    user_data: u64,
    delivery: Delivery,
    backlog: BacklogLimits,
    liveness: Liveness,
    limits: Limits,
}

impl Model {
    fn expect_read_back(&self, net: &mut Netlib<()>, handle: Handle) {
        let option = net.option(handle).expect("it is open");
        assert_eq!(option.user_data(), self.user_data);
        assert_eq!(option.delivery(), self.delivery);
        assert_eq!(option.backlog_limits(), self.backlog);
        assert_eq!(option.liveness(), self.liveness);
        assert_eq!(option.limits(), self.limits);
    }
}

/// Options of a `Netlib`, what a socket will have of them, and whether they are within bounds.
struct Choice {
    options: Options,
    model: Model,
    are_within: bool,
    pool_bytes: u64,
}

impl Choice {
    fn new() -> Self {
        Self {
            options: Options::new().backend(Backend::Epoll),
            model: Model {
                user_data: 0,
                delivery: Delivery::default(),
                backlog: BacklogLimits::default(),
                liveness: Liveness::new(),
                limits: Limits::new(),
            },
            are_within: true,
            pool_bytes: 0,
        }
    }

    /// Sets an option that only counts something.
    fn set_number(&mut self, choice: u8, reader: &mut ByteReader<'_>) -> Result<(), Underflow> {
        let (options, number) = (self.options.clone(), number(reader)?);
        let (options, is_within) = match choice {
            0 => (options.ring_entries(number), (8..=32_768).contains(&number)),
            1 => (options.sockets_max(number), number > 0),
            2 => (options.pull_bytes_max(number), number > 0),
            3 => (options.buffered_bytes_max(number as usize), number > 0),
            4 => {
                let calls = u16::try_from(number).unwrap_or(u16::MAX);
                (options.calls_max(calls), (1..=32_768).contains(&calls))
            }
            _ => {
                let count = reader.u16()?;
                self.pool_bytes = u64::from(count) * u64::from(number);
                let is_within = (1..=32_768).contains(&count) && (64..=1_048_576).contains(&number);
                (options.pool(count, number), is_within)
            }
        };
        self.options = options;
        self.are_within &= is_within;
        Ok(())
    }

    /// Sets any option.
    fn set(&mut self, choice: u8, reader: &mut ByteReader<'_>) -> Result<(), Underflow> {
        let options = self.options.clone();
        self.options = match choice {
            0..=5 => return self.set_number(choice, reader),
            6 => {
                let (first, last) = (span(reader)?, span(reader)?);
                self.are_within &= first <= last;
                options.accept_pause(first, last)
            }
            7 => options.connect_timeout(span(reader)?).close_timeout(span(reader)?),
            8 => {
                self.model.delivery = delivery(reader)?;
                options.delivery(self.model.delivery)
            }
            9 => {
                self.model.backlog = backlog(reader)?;
                self.are_within &= is_in_order(self.model.backlog);
                options.backlog(self.model.backlog)
            }
            10 => {
                self.model.liveness = liveness(reader)?;
                options.liveness(self.model.liveness.clone())
            }
            _ => {
                self.model.limits = limits(reader)?;
                options.limits(self.model.limits.clone())
            }
        };
        Ok(())
    }
}

/// A `Netlib` with options from the bytes, where they are within their bounds. Few are set at a
/// time, each at most once, as any that is out of bounds hides the others.
fn build(reader: &mut ByteReader<'_>) -> Result<Option<(Netlib<()>, Model)>, Underflow> {
    let mut chosen = Choice::new();
    let mut left: Vec<u8> = (0..12).collect();
    for _ in 0..reader.u8()? % 8 {
        let choice = left.swap_remove(usize::from(reader.u8()?) % left.len());
        chosen.set(choice, reader)?;
    }
    let Choice { options, model, are_within, pool_bytes } = chosen;
    if are_within && pool_bytes > POOL_MAX {
        // Right, and more than a fuzzer has.
        return Ok(None);
    }
    match options.build() {
        Ok(net) => {
            assert!(are_within && frames_fit(model.delivery), "taken out of bounds");
            Ok(Some((net, model)))
        }
        Err(BuildError::Option(text)) => {
            assert!(!are_within, "refused within bounds: {text}");
            Ok(None)
        }
        Err(BuildError::Frame(error)) => {
            assert!(are_within && !frames_fit(model.delivery), "refused, and it fits: {error}");
            Ok(None)
        }
        Err(error) => panic!("{error}"),
    }
}

/// Sets one option of a socket.
fn set_one(
    net: &mut Netlib<()>,
    handle: Handle,
    model: &mut Model,
    reader: &mut ByteReader<'_>,
) -> Result<(), Underflow> {
    let mut option = net.option(handle).expect("it is open");
    match reader.u8()? % 5 {
        0 => {
            model.user_data = u64::from(reader.u32()?) << 32 | u64::from(reader.u32()?);
            option.set_user_data(model.user_data);
        }
        1 => {
            let delivery = delivery(reader)?;
            let taken = option.set_delivery(delivery).is_ok();
            assert_eq!(taken, frames_fit(delivery), "{delivery:?}");
            if taken {
                model.delivery = delivery;
            }
        }
        2 => {
            let backlog = backlog(reader)?;
            let taken = option.set_backlog_limits(backlog).is_ok();
            assert_eq!(taken, is_in_order(backlog), "{backlog:?}");
            if taken {
                model.backlog = backlog;
            }
        }
        3 => {
            model.liveness = liveness(reader)?;
            option.set_liveness(model.liveness.clone());
        }
        _ => {
            model.limits = limits(reader)?;
            option.set_limits(model.limits.clone());
        }
    }
    Ok(())
}

const fn is_in_order(limits: BacklogLimits) -> bool {
    limits.low <= limits.high && limits.high <= limits.max && limits.max > 0
}

fn frames_fit(delivery: Delivery) -> bool {
    !matches!(delivery, Delivery::Pdu(spec) if spec.validate().is_err())
}

fn delivery(reader: &mut ByteReader<'_>) -> Result<Delivery, Underflow> {
    let choice = reader.u8()?;
    Ok(match choice % 4 {
        0 => Delivery::Push,
        1 => Delivery::Pull,
        _ => {
            let endian = if choice & 4 == 0 { Endian::Big } else { Endian::Little };
            let counts = match choice >> 3 & 3 {
                0 => LengthCounts::Frame,
                1 => LengthCounts::AfterLength,
                _ => LengthCounts::Body,
            };
            let [offset, width, header_len] = [reader.u8()?, reader.u8()? % 6, reader.u8()?];
            let spec = FrameSpec::new(offset.into(), width, endian, counts, header_len.into());
            let spec = if choice & 0x40 == 0 { spec } else { spec.with_min(number(reader)?) };
            Delivery::Pdu(if choice & 0x80 == 0 { spec } else { spec.with_max(number(reader)?) })
        }
    })
}

fn backlog(reader: &mut ByteReader<'_>) -> Result<BacklogLimits, Underflow> {
    Ok(BacklogLimits { low: number(reader)?, high: number(reader)?, max: number(reader)? })
}

fn liveness(reader: &mut ByteReader<'_>) -> Result<Liveness, Underflow> {
    let preset = match reader.u8()? % 4 {
        0 => Liveness::new(),
        1 => Liveness::client(),
        2 => Liveness::mobile(),
        _ => Liveness::server_to_server(),
    };
    Ok(match reader.u8()? % 4 {
        0 => preset,
        1 => preset.handshake(span(reader)?).frame(span(reader)?),
        2 => preset.read_idle(span(reader)?).write_stall(span(reader)?),
        _ => preset.lifetime(span(reader)?).heartbeat(span(reader)?),
    })
}

fn limits(reader: &mut ByteReader<'_>) -> Result<Limits, Underflow> {
    let limits = Limits::new().unready_bytes_max(number(reader)?).patience(span(reader)?);
    let rate = Rate::per_second(number(reader)?).burst(number(reader)?);
    Ok(match reader.u8()? % 3 {
        0 => limits,
        1 => limits.pdus(rate),
        _ => limits.bytes(rate),
    })
}

/// A number near the bounds that there are, or any.
fn number(reader: &mut ByteReader<'_>) -> Result<u32, Underflow> {
    let choice = reader.u8()?;
    Ok(match choice >> 6 {
        0 => u32::from(choice),
        1 => 1 << (choice & 31),
        2 => (1_u32 << (choice & 31)).wrapping_sub(1),
        _ => reader.u32()?,
    })
}

/// A time: none, short, longer than any clock, or any.
fn span(reader: &mut ByteReader<'_>) -> Result<Duration, Underflow> {
    Ok(match reader.u8()? % 4 {
        0 => Duration::from_nanos(reader.u8()?.into()),
        1 => Duration::from_millis(reader.u16()?.into()),
        2 => Duration::from_secs(u64::MAX >> (reader.u8()? % 64)),
        _ => Duration::MAX,
    })
}

/// The memory of a pool that is tried: 64 MiB.
const POOL_MAX: u64 = 64 << 20;

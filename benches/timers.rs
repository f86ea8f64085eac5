//! What a timer costs to arm and to cancel, however many are armed already.
//!
//! `cargo bench --bench timers` takes a few seconds. Time per operation in nanoseconds, as the
//! median of several rounds with the fastest and the slowest; on one thread, without any system
//! call. A deadline of a connection is a timer of the same wheel without the table of user timers,
//! so it costs less than what stands here.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use uring_netlib::{Backend, Event, Handle, Netlib, Options, Repeat, TimerId};

/// Timers that are armed while others are measured.
const ARMED: [usize; 4] = [0, 1_000, 100_000, 1_000_000];

/// Timers of one measurement.
const MEASURED: usize = 100_000;

const ROUNDS: usize = 15;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--bench"] => {}
        // Run by `cargo test`, which builds and starts benches as well.
        [] => {
            println!("timers: nothing to test; `cargo bench --bench timers` measures");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("usage: cargo bench --bench timers");
            return ExitCode::from(2);
        }
    }
    println!("{:>9}  {:^23}  {:^23}  {:^23}", "armed", "arm ns", "cancel ns", "fire ns");
    println!("{:>9}  {H}  {H}  {H}", "", H = " median  fastest slowest");
    for armed in ARMED {
        let [arm, cancel, fire] = measure(armed);
        println!("{armed:>9}  {}  {}  {}", cell(arm), cell(cancel), cell(fire));
    }
    ExitCode::SUCCESS
}

/// Nanoseconds per operation of each round: arming, cancelling, firing.
fn measure(armed: usize) -> [Vec<f64>; 3] {
    let clock = uring_netlib::ManualClock::new();
    let options = Options::new().backend(Backend::Epoll).clock(&clock);
    let mut net = options.build::<u64>().expect("epoll is everywhere");
    let mut spans = Spans(7);
    for _ in 0..armed {
        // Far away, as the deadlines of idle connections are.
        net.register_timer(FAR + spans.next(), Repeat::Forever, count, 0);
    }
    let mut times = [const { Vec::new() }; 3];
    let mut timers: Vec<TimerId> = Vec::with_capacity(MEASURED);
    let mut fired = 0;
    for _ in 0..=ROUNDS {
        let spans: Vec<Duration> = (0..MEASURED).map(|_| spans.next()).collect();
        let arm = per_operation(|| {
            timers
                .extend(spans.iter().map(|span| net.register_timer(*span, Repeat::Once, count, 0)));
        });
        let cancel = per_operation(|| {
            for timer in timers.drain(..) {
                net.delete_timer(timer).expect("it is armed");
            }
        });
        for span in &spans {
            net.register_timer(*span, Repeat::Once, count, 0);
        }
        clock.advance(SPAN_MAX);
        let fire = per_operation(|| net.turn(&mut fired, Duration::ZERO).expect("epoll waits"));
        for (times, time) in times.iter_mut().zip([arm, cancel, fire]) {
            times.push(time);
        }
    }
    assert_eq!(fired, (MEASURED * (ROUNDS + 1)) as u64, "each has fired once");
    // The first round warms up.
    times.map(|times| times[1..].to_vec())
}

fn count(fired: &mut u64, _: &mut Netlib<u64>, _: Handle, _: Event<'_>) {
    *fired += 1;
}

fn per_operation(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e9 / MEASURED as f64
}

fn cell(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let (fastest, slowest) = (times[0], times[times.len() - 1]);
    format!("{:>7.1} {fastest:>7.1} {slowest:>7.1}", times[times.len() / 2])
}

/// Spans of time as connections have them: anything up to two minutes.
struct Spans(u64);

impl Spans {
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Duration::from_millis((self.0 >> 33) % u64::try_from(SPAN_MAX.as_millis()).unwrap_or(1))
    }
}

const SPAN_MAX: Duration = Duration::from_secs(120);
const FAR: Duration = Duration::from_secs(1_000_000);

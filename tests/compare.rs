//! The parts of the comparison that need no processes: what is asked for, what the load is, and
//! what is made of the figures.

#[path = "../benches/compare/cell.rs"]
mod cell;
#[path = "../benches/compare/command.rs"]
mod command;
#[path = "../benches/compare/report/mod.rs"]
mod report;
#[path = "../benches/support/mod.rs"]
mod support;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cell::Cell;
use command::{LoadOrder, OWN_SERVERS, Plan, SERVERS, Task, USAGE};
use report::statistics::Spread;
use report::svg::{Scale, Svg, escaped};
use report::{CellResult, Facts, Report, Sample, ServerResult};
use support::generator::{Generator, QUANTILES};
use support::schedule::{Schedule, Sizes};
use support::sys::CpuClock;

fn parse(line: &str) -> Result<Task, String> {
    Task::parse(line.split_whitespace().map(str::to_owned))
}

fn plan(line: &str) -> Plan {
    match parse(line) {
        Ok(Task::Measure(plan)) => plan,
        other => panic!("{line} is {other:?}"),
    }
}

/// A server whose costs by round are these.
fn server(name: &str, costs: &[f64]) -> ServerResult {
    let sample = |cost: &f64| Sample { cost: *cost, per_second: 1000.0, ..Sample::default() };
    let samples = costs.iter().map(sample).collect();
    ServerResult { name: name.to_owned(), samples, ..ServerResult::default() }
}

fn result(name: &str, servers: &[ServerResult]) -> CellResult {
    CellResult { cell: name.parse().unwrap(), servers: servers.to_vec(), rate: None }
}

fn report_of(cells: Vec<CellResult>) -> Report {
    let facts = Facts { processor: "a <fast> & \"good\" one".to_owned(), ..Facts::default() };
    let servers = vec![("uring".to_owned(), "ours".to_owned())];
    Report { facts, cells, servers, notes: vec!["a \"note\"\nof two lines".to_owned()] }
}

/// What a cell is called is what it is called on the command line.
#[test]
fn every_cell_is_parsed_from_its_name() {
    for cell in Cell::all().into_iter().chain(Cell::usual()).chain(Cell::quick()) {
        assert_eq!(cell.to_string().parse(), Ok(cell));
    }
}

/// K is 1024, and 1M the payload of the longest PDU.
#[test]
fn lengths_have_units() {
    let closed = |connections, payload_len, depth| Cell::Closed { connections, payload_len, depth };
    assert_eq!("50x64Kx16".parse(), Ok(closed(50, 65536, 16)));
    assert_eq!("1x1Mx1".parse(), Ok(closed(1, (1 << 20) - 16, 1)));
    assert_eq!("half:1Kx4K".parse(), Ok(Cell::Half { connections: 1024, payload_len: 4096 }));
}

/// A name that is none, or asks for what cannot be, is an error that repeats it.
#[test]
fn what_is_no_cell_is_an_error() {
    let names = ["", "x", "1x1", "0x64x1", "1x64x1x1", "half:1x1x1", "1x2Mx1", "19000x64x1"];
    for name in names.into_iter().chain(["10000x64Kx1", "-1x64x1", "1xKx1", "halfmix", "MIX"]) {
        let error = name.parse::<Cell>().unwrap_err();
        assert!(error.contains(&format!("`{name}`")), "{error}");
    }
}

/// The cells that are asked for are measured, in that order.
#[test]
fn cells_are_those_of_the_command_line() {
    let cells = plan("--bench --cells churn,half:1000x64,mix").cells;
    let half = Cell::Half { connections: 1000, payload_len: 64 };
    assert_eq!(cells, [Cell::Churn, half, Cell::Mix]);
}

/// The plain server is always there, for the ratios are to it, and each server only once.
#[test]
fn the_plain_server_is_always_there() {
    assert_eq!(plan("--bench --servers tokio,uring").servers, ["uring", "plain", "tokio"]);
    assert_eq!(plan("--bench --servers plain,plain").servers, ["plain"]);
}

/// Only what is due at some time has a rate, and only a closed loop a depth other than one.
#[test]
fn loops_are_open_or_deep() {
    let of = |name: &str| {
        let cell: Cell = name.parse().unwrap();
        (cell.is_open_loop(), cell.depth())
    };
    let names = ["1000x64x16", "half:1000x64", "mix", "churn", "fanout", "idle"];
    let expected = [(false, 16), (true, 1), (true, 1), (false, 1), (false, 1), (false, 1)];
    assert_eq!(names.map(of), expected);
}

/// A fan-out needs more than an echo server, and the servers that have it are known.
#[test]
fn only_own_servers_take_part_in_a_fan_out() {
    let only_own: Vec<Cell> = Cell::all().into_iter().filter(|cell| cell.is_own_only()).collect();
    assert_eq!(only_own, [Cell::Fanout]);
    for name in OWN_SERVERS {
        assert!(SERVERS.iter().any(|(known, _)| *known == name), "{name}");
        assert!(support::process::Server::from_name(name).is_some(), "{name}");
    }
}

/// What is said of turns and files holds.
#[test]
fn turns_and_files_are_those_of_the_command_line() {
    let plan = plan("--bench --rounds 7 --secs 0.25 --markdown a.md --peers b/c");
    assert_eq!((plan.rounds, plan.window), (7, Duration::from_millis(250)));
    assert_eq!(plan.markdown.as_deref(), Some("a.md".as_ref()));
    assert_eq!(plan.peers.as_deref(), Some("b/c".as_ref()));
}

/// What --quick leaves out is more than what the usual run leaves out of --full.
#[test]
fn the_extents_grow() {
    let of = |line| {
        let plan = plan(line);
        (plan.cells.len(), plan.servers.len(), plan.rounds)
    };
    let (quick, usual, full) = (of("--bench --quick"), of("--bench"), of("--bench --full"));
    assert!(quick.0 < usual.0 && usual.0 < full.0, "{quick:?} {usual:?} {full:?}");
    assert!(quick.1 < usual.1 && usual.1 < full.1, "{quick:?} {usual:?} {full:?}");
    assert!(quick.2 < usual.2 && usual.2 <= full.2, "{quick:?} {usual:?} {full:?}");
    assert_eq!(plan("--bench --rounds 3 --quick").rounds, 3, "whatever the extent");
}

/// A wrong argument is an error and not a run with something else.
#[test]
fn wrong_arguments_are_errors() {
    let wrong = ["--what", "--cells", "--cells foo", "--servers foo", "--servers", "compare"];
    let numbers = ["--rounds 0", "--rounds -1", "--rounds 1001", "--secs 0", "--secs 61"];
    let further = ["--secs NaN", "--secs", "--markdown"];
    for line in wrong.iter().chain(&numbers).chain(&further) {
        assert!(parse(&format!("--bench {line}")).is_err(), "{line}");
    }
    assert!(USAGE.lines().all(|line| line.len() <= 100), "the usage fits a terminal");
}

/// A test harness starts benches with arguments of its own: nothing is measured then.
#[test]
fn nothing_is_measured_without_bench() {
    for line in ["", "--nocapture", "--test-threads 1"] {
        assert!(matches!(parse(line), Ok(Task::Nothing)), "{line}");
    }
}

/// The processes that a run starts are told what to be by the same command line.
#[test]
fn servers_and_loads_are_told_what_to_be() {
    let task = parse("--server tokio --core 1").unwrap();
    assert!(matches!(task, Task::Serve { server, core: 1 } if server == "tokio"));
    let task = parse("--load mix --port 4000 --server-id 77 --core 2").unwrap();
    let Task::Load(LoadOrder { cell, port, server_id, core }) = task else { panic!("{task:?}") };
    assert_eq!((cell, port, server_id, core), (Cell::Mix, 4000, 77, 2));
}

/// The quartiles of a known list, and of lists that have no middle.
#[test]
fn quartiles_are_between_the_values() {
    let spread = |low, middle, high| Some(Spread { low, middle, high });
    assert_eq!(Spread::of([5.0, 1.0, 3.0, 2.0, 4.0]), spread(2.0, 3.0, 4.0));
    assert_eq!(Spread::of([1.0, 2.0]), spread(1.25, 1.5, 1.75));
    assert_eq!(Spread::of([7.0]), spread(7.0, 7.0, 7.0));
    assert_eq!(Spread::of([]), None);
}

/// A machine that is slower in one round is so for all servers, and no ratio changes by it.
#[test]
fn ratios_are_taken_within_rounds() {
    let servers = [server("uring", &[8.0, 80.0, 800.0]), server("plain", &[10.0, 100.0, 1000.0])];
    let result = result("1000x64x1", &servers);
    let ratio = result.ratio(&result.servers[0]).unwrap();
    assert_eq!((ratio.low, ratio.middle, ratio.high), (0.8, 0.8, 0.8));
    assert_eq!(result.ratio(&result.servers[1]), None, "plain to itself says nothing");
    assert_eq!(result.subject_ratio(&result.servers[1]), Some(ratio), "uring is the subject");
    assert_eq!(result.subject_ratio(&result.servers[0]), None, "nor does uring to itself");
}

/// A server that failed has a ratio of the rounds that it took part in.
#[test]
fn rounds_that_are_missing_have_no_ratio() {
    let servers = [server("tokio", &[20.0]), server("plain", &[10.0, 1.0, 1.0])];
    let result = result("1000x64x1", &servers);
    assert_eq!(result.ratio(&result.servers[0]).map(|ratio| ratio.middle), Some(2.0));
}

/// Every server that costs no more is named, the largest ratio first, and no other.
#[test]
fn cells_that_are_not_won_are_told() {
    let uring = server("uring", &[1.0, 1.0, 1.0]);
    let others =
        [server("ring", &[0.5; 3]), server("plain", &[2.0; 3]), server("monoio", &[0.8; 3])];
    let lost = result("50x64x1", &[std::slice::from_ref(&uring), &others].concat());
    let won = result("1000x64x1", &[uring, server("plain", &[2.0; 3])]);
    let lines = report::text::not_won(&report_of(vec![lost, won]));
    assert_eq!(lines.len(), 1, "{lines:?}");
    let (ring, monoio) = (lines[0].find("2.00 of ring"), lines[0].find("1.25 of monoio"));
    assert!(ring.unwrap() < monoio.unwrap() && !lines[0].contains("plain"), "{lines:?}");
}

/// An open loop whose answers lag far behind what was due says so.
#[test]
fn a_load_that_fell_behind_is_told() {
    let mut result = result("half:1000x64", &[server("uring", &[1.0])]);
    result.servers[0].samples[0].part = 0.95;
    assert_eq!(report_of(vec![result.clone()]).cautions().len(), 1, "the note alone");
    result.servers[0].samples[0].part = 0.8;
    assert_eq!(report_of(vec![result]).cautions().len(), 2);
}

/// What the load tells is what the bench reads, and nothing else is a sample.
#[test]
fn samples_survive_the_pipe() {
    let latency_us: Vec<f64> = (0..QUANTILES.len()).map(|place| place as f64 * 0.1).collect();
    for (latency_us, system_calls) in [(latency_us, Some(0.125)), (Vec::new(), None)] {
        let (cost, per_second, part) = (1.0 / 3.0, 1e6, 0.5);
        let sample = Sample { cost, per_second, part, latency_us, system_calls };
        assert_eq!(Sample::from_line(&sample.to_line()), Some(sample));
    }
    for line in ["", "1 2 3", "1 2 3 4 5", "a b c d"] {
        assert_eq!(Sample::from_line(line), None, "{line}");
    }
}

/// The ends of an axis are the ends of its values; what is beyond stays at the end.
#[test]
fn scales_map_ends_to_ends() {
    let linear = Scale::linear((0.0, 10.0), (100.0, 0.0));
    assert_eq!([0.0, 5.0, 10.0, 99.0, -9.0].map(|v| linear.at(v)), [100.0, 50.0, 0.0, 0.0, 100.0]);
    let log = Scale::log((1.0, 10_000.0), (0.0, 400.0));
    assert!((log.at(100.0) - 200.0).abs() < 1e-9);
    let nines = Scale::nines((0.0, 0.999), (0.0, 300.0));
    assert!((nines.at(0.9) - 100.0).abs() < 1e-9 && (nines.at(0.99) - 200.0).abs() < 1e-9);
    assert_eq!(Scale::linear((1.0, 1.0), (3.0, 9.0)).at(1.0), 3.0, "an axis without length");
}

/// Ticks are round, inside the axis, and neither few nor many.
#[test]
fn ticks_are_round_and_inside() {
    assert_eq!(Scale::linear((0.0, 10.0), (0.0, 1.0)).ticks(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    assert_eq!(Scale::log((1.0, 1000.0), (0.0, 1.0)).ticks(), [1.0, 10.0, 100.0, 1000.0]);
    assert_eq!(Scale::nines((0.0, 0.99), (0.0, 1.0)).ticks(), [0.0, 0.5, 0.9, 0.99]);
    for most in [0.003, 0.7, 1.3, 17.0, 9999.0, 3e7] {
        let ticks = Scale::linear((0.0, most), (0.0, 1.0)).ticks();
        assert!((3..=7).contains(&ticks.len()), "{most}: {ticks:?}");
        assert!(ticks.iter().all(|tick| (0.0..=most).contains(tick)), "{most}: {ticks:?}");
    }
}

/// Whatever a name has in it, it is text and no markup.
#[test]
fn text_is_escaped() {
    assert_eq!(escaped("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
    let mut svg = Svg::new(10.0, 10.0);
    svg.text("name", (0.0, 0.0), "start", "<script>");
    assert!(!svg.finish("<label>").contains("<script>"));
}

/// A page of every kind of cell has its charts, closes what it opens, and asks for nothing outside.
#[test]
fn the_page_is_whole_and_needs_no_network() {
    let with_latency = |name| {
        let mut server = server(name, &[2.0, 3.0]);
        for sample in &mut server.samples {
            sample.latency_us = (1..=QUANTILES.len()).map(|us| us as f64 * 10.0).collect();
        }
        server
    };
    let echo = |name| result(name, &[with_latency("uring"), with_latency("plain")]);
    let memory = result("idle", &[server("uring", &[500.0]), server("plain", &[60.0])]);
    let page = report::page::html(&report_of(vec![echo("50x64x1"), echo("1000x64x1"), memory]));
    for (tag, least) in [("svg", 6), ("section", 6), ("table", 4), ("html", 1), ("figure", 6)] {
        let opened = page.matches(&format!("<{tag}>")).count();
        let opened = opened + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        assert!(opened >= least, "{opened} of {tag}");
    }
    assert!(!page.contains("http") && !page.contains("<fast>") && !page.contains("NaN"));
}

/// The data say for each turn what it gave, and JSON is JSON whatever the texts have in them.
#[test]
fn data_have_every_turn() {
    let report = report_of(vec![result("50x64x1", &[server("uring", &[2.0, 3.0])])]);
    let csv = report::files::csv(&report);
    let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert_eq!(columns, [6 + QUANTILES.len(); 3]);
    assert!(csv.contains("50x64x1,uring,2,server_cpu_us,3,1000"), "{csv}");
    let json = report::files::json(&report);
    assert!(json.contains(r#""a \"note\"\u000aof two lines""#), "{json}");
    assert!(json.contains(r#""cost": {"low": 2.25, "median": 2.5, "high": 2.75}"#), "{json}");
}

/// The table names each cell and server once, with the ratio that was measured.
#[test]
fn tables_have_the_ratios() {
    let mut failed = server("tokio", &[]);
    failed.failure = Some("it is silent".to_owned());
    let servers = [server("uring", &[9.0]), server("plain", &[10.0]), failed];
    let report = report_of(vec![result("1000x64x1", &servers)]);
    let row = "| 1,000 connections, 64 B | **0.90** (0.90–0.90) | 1 | failed |";
    let markdown = report::text::markdown(&report);
    assert!(markdown.contains(row), "{markdown}");
    let terminal = report::text::terminal(&report);
    assert!(terminal.contains("failed: it is silent"), "{terminal}");
}

/// A figure has as many digits as one compares, and a time the unit that suits it.
#[test]
fn figures_have_the_digits_that_one_compares() {
    let short = [0.0123, 1.234, 12.34, 1234.0, 12_340.0, 1.234e6].map(report::text::short);
    assert_eq!(short, ["0.012", "1.23", "12.3", "1234", "12.3 k", "1.23 M"]);
    let times = [56.8, 200.0, 1234.0, 2e6].map(report::text::micros);
    assert_eq!(times, ["56.8 µs", "200 µs", "1.23 ms", "2 s"]);
}

/// Figures replace the figures of a document, and nothing else of it.
#[test]
fn figures_are_put_between_the_markers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/BENCHMARKS.md");
    let document = std::fs::read_to_string(path).unwrap();
    let once = report::text::placed(&document, "old figures\n");
    let twice = report::text::placed(&once, "new figures\n");
    assert!(twice.contains("new figures") && !twice.contains("old figures"));
    assert!(twice.contains("## Limits"));
    assert_eq!(report::text::placed("", "figures"), "figures");
}

/// Dates are those of the calendar, leap days included.
#[test]
fn dates_are_those_of_the_calendar() {
    let utc = report::facts::utc;
    assert_eq!(utc(0), "1970-01-01 00:00 UTC");
    assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
    assert_eq!(utc(1_735_689_599), "2024-12-31 23:59 UTC");
}

/// Every PDU is due at its time however late it is asked for, and the rate is the one that was
/// asked for.
#[test]
fn a_schedule_keeps_its_rate_and_its_times() {
    let second_ns = 1_000_000_000;
    let mut often = Schedule::new(50_000.0, 100, 7);
    let mut late = often.clone();
    let mut due = Vec::new();
    for now_ns in (0..=second_ns).step_by(10_000) {
        due.extend(std::iter::from_fn(|| often.due(now_ns)));
    }
    assert!((49_000..51_000).contains(&due.len()), "{}", due.len());
    assert!(due.is_sorted_by_key(|due| due.at_ns) && due[0].at_ns >= 7);
    let all_at_once: Vec<_> = std::iter::from_fn(|| late.due(second_ns)).collect();
    assert_eq!(due, all_at_once);
    let used = |connection| due.iter().filter(|due| due.connection == connection).count();
    assert!((0..100).all(|connection| (300..700).contains(&used(connection))), "all are used");
}

/// A mix has the parts that it is said to have, and is the same each time.
#[test]
fn a_mix_has_its_parts() {
    let lens: Vec<usize> =
        (0..100).flat_map(|c| (0..500).map(move |s| Sizes::Mix.payload_len(c, s))).collect();
    let part = |is: fn(usize) -> bool| lens.iter().filter(|len| is(**len)).count() * 1000 / 50_000;
    assert!((290..310).contains(&part(|len| len == 0)), "heartbeats");
    assert!((8..13).contains(&part(|len| len == Sizes::Mix.longest())), "large ones");
    assert!((680..700).contains(&part(|len| (32..512).contains(&len))), "messages");
}

/// The plain server echoes to the load in every kind of loop, and the open loop keeps its rate.
#[test]
fn the_load_runs_against_the_plain_server() {
    let (port_sink, port) = mpsc::channel();
    thread::spawn(|| support::plain_epoll::serve(move |port| port_sink.send(port).unwrap()));
    let port = port.recv_timeout(Duration::from_secs(10)).unwrap();
    let (cpu, window) =
        (CpuClock::of_process(std::process::id()).unwrap(), Duration::from_millis(50));
    for sizes in [Sizes::Fixed(64), Sizes::Fixed(100_000), Sizes::Mix] {
        let mut load = Generator::connect(port, 20, sizes).unwrap();
        load.verify(10).unwrap();
        let closed = load.closed_loop(3, Duration::ZERO, window, &cpu).unwrap();
        assert!(closed.answers >= 20 * 3 && closed.latency_us.is_sorted(), "{closed:?}");
        let open = load.open_loop(400.0, Duration::ZERO, window, &cpu).unwrap();
        assert!(open.elapsed >= window && open.answers <= 100, "{open:?}");
        assert!(open.due > 0 && open.due <= 100, "{open:?}");
        assert!(load.answers_in_all() >= 20 * 10 + closed.answers + open.answers);
    }
}

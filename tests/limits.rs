//! Behaviour of a whole process, each tried in a child of its own: no descriptor left, peers that
//! mean harm, a sandbox that forbids io_uring, and the environment's wishes.
//!
//! A child is this very program, started again for one test with `NETLIB_TEST_CHILD` set.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use support::{Address, Backend, CHILD, Event, Guard, Handle, Netlib, Options, backends, marked};
use uring_netlib::{BuildError, Errno, Feature, Features, UringError};

fn descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").unwrap().count() as u64
}

fn echo(count: &mut u32, net: &mut Netlib<u32>, handle: Handle, event: Event<'_>) {
    if let Event::Pdu(pdu) = event {
        *count += 1;
        net.send(handle, pdu.frame()).unwrap();
    }
}

/// D10: a server without descriptors rests, drops no client, harms no connection, does not spin,
/// and goes on as soon as one is closed.
#[test]
fn a_listener_survives_without_descriptors() {
    if let Ok(backend) = env::var(CHILD) {
        return serve_with_few_descriptors(backend.parse().unwrap());
    }
    for backend in backends() {
        let (child, stdin, mut lines) =
            Guard::start("a_listener_survives_without_descriptors", &backend);
        let address = marked(&mut lines, "listening on ");
        let mut clients: Vec<TcpStream> =
            (0..40).map(|_| TcpStream::connect(&address).unwrap()).collect();
        for (number, client) in (0u8..).zip(&mut clients) {
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            client.write_all(&pdu(number)).unwrap();
        }
        // The first ones are served; each that leaves makes room for one that waits.
        for (number, mut client) in (0u8..).zip(clients) {
            let mut answer = [0; 17];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, pdu(number), "on {backend}");
        }
        drop(stdin);
        let pauses: u64 = marked(&mut lines, "pauses ").parse().unwrap();
        assert!(pauses > 0, "on {backend} there were descriptors enough");
        child.expect_success();
    }
}

fn pdu(number: u8) -> [u8; 17] {
    let mut pdu = [0; 17];
    pdu[3] = 17;
    pdu[16] = number;
    pdu
}

fn serve_with_few_descriptors(backend: Backend) {
    let mut net = Options::new().backend(backend).build().unwrap();
    let listener = net.listen("127.0.0.1:0", echo, 0).unwrap();
    let before = descriptors();
    limit_descriptors(before + 8);
    println!("\nlistening on {}", net.option(listener).unwrap().local_address().unwrap());
    let remote = net.remote();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        remote.stop();
    });
    let mut count = 0;
    net.eventloop(&mut count, Duration::from_secs(60)).unwrap();
    while net.stats().sockets > 1 {
        net.turn(&mut count, Duration::from_millis(10)).unwrap();
    }
    let stats = net.stats();
    assert_eq!((count, stats.accepted), (40, 40));
    assert!(stats.turns < 2000, "{} turns for 40 clients: it spun", stats.turns);
    assert_eq!(descriptors(), before, "descriptors leaked");
    println!("\npauses {}", stats.accept_pauses);
}

/// Peers that send nonsense, vanish, reset, stop half-way or never read leave nothing behind: no
/// socket, no buffer, no descriptor, and no harm to the next.
#[test]
fn hostile_peers_leave_nothing_behind() {
    if let Ok(backend) = env::var(CHILD) {
        return serve_hostile_peers(backend.parse().unwrap());
    }
    for backend in backends() {
        let (child, stdin, mut lines) =
            Guard::start("hostile_peers_leave_nothing_behind", &backend);
        let address = marked(&mut lines, "listening on ");
        for round in 0..50 {
            let connect = || {
                let peer = TcpStream::connect(&address).unwrap();
                peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                peer
            };
            let mut lengths = [0u32, 1, 15, (1 << 20) + 1, u32::MAX].map(|length| {
                let mut peer = connect();
                peer.write_all(&pdu(1)).unwrap();
                peer.write_all(&length.to_be_bytes()).unwrap();
                peer
            });
            let silent = connect();
            let mut half = connect();
            half.write_all(&pdu(2)[..round % 17]).unwrap();
            let mut reset = connect();
            reset.write_all(&[pdu(3), pdu(4)].concat()[..20]).unwrap();
            socket2::SockRef::from(&reset).set_linger(Some(Duration::ZERO)).unwrap();
            let mut deaf = connect();
            deaf.set_write_timeout(Some(Duration::from_millis(1))).unwrap();
            let _ = deaf.write_all(&pdu(5).repeat(20_000));
            // Whoever sent a bad length is answered what was good, and sees the end at once.
            for peer in &mut lengths {
                let mut answers = Vec::new();
                peer.read_to_end(&mut answers).unwrap();
                assert_eq!(answers, pdu(1), "on {backend}");
            }
            drop((lengths, silent, half, reset, deaf));
        }
        drop(stdin);
        marked(&mut lines, "nothing is left");
        child.expect_success();
    }
}

fn serve_hostile_peers(backend: Backend) {
    let mut net = Options::new().backend(backend).build().unwrap();
    let listener = net.listen("127.0.0.1:0", echo_or_abort, 0).unwrap();
    let before = descriptors();
    println!("\nlistening on {}", net.option(listener).unwrap().local_address().unwrap());
    let remote = net.remote();
    let thread = std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        remote.stop();
    });
    let mut count = 0;
    net.eventloop(&mut count, Duration::from_secs(60)).unwrap();
    thread.join().unwrap();
    while net.stats().sockets > 1 {
        net.turn(&mut count, Duration::from_secs(10)).unwrap();
    }
    let stats = net.stats();
    assert_eq!((stats.accepted, stats.closes.bad_frame), (50 * 9, 50 * 5), "{stats:?}");
    assert_eq!(stats.buffers_free + stats.buffers_kernel, 256, "{stats:?}");
    assert_eq!(descriptors(), before, "descriptors leaked");
    println!("\nnothing is left");
}

fn echo_or_abort(_: &mut u32, net: &mut Netlib<u32>, handle: Handle, event: Event<'_>) {
    if let Event::Pdu(pdu) = event
        && net.send(handle, pdu.frame()).is_err()
    {
        net.abort(handle).unwrap();
    }
}

/// Without a feature that the ring driver needs, `Auto` is epoll with that reason, and `Uring` is
/// an error that names it; without any other feature the ring works.
#[test]
fn a_masked_feature_degrades_or_is_missed() {
    if backends() == ["epoll"] {
        return;
    }
    for feature in Feature::ALL {
        let options = |backend| {
            Options::new().backend(backend).mask(Features::NONE.with(feature)).build::<()>()
        };
        if feature.is_required() {
            let missing = UringError::Missing(feature);
            let refused = options(Backend::Uring);
            assert!(matches!(refused, Err(BuildError::Uring(error)) if error == missing));
        } else {
            let features = options(Backend::Uring).unwrap().backend().features;
            assert!(!features.has(feature), "{feature} is masked");
        }
    }
}

/// `NETLIB_BACKEND` overrules `Auto` and nothing else, `NETLIB_URING_MASK` takes features away,
/// and words that neither knows are errors that name them.
#[test]
fn the_environment_is_heard_and_checked() {
    if let Ok(expected) = env::var(CHILD) {
        let built = Options::new().build::<()>();
        let text = built.map_or_else(|error| error.to_string(), |net| net.backend().to_string());
        assert!(text.contains(&expected), "{text} instead of {expected}");
        let forced = Options::new().backend(Backend::Epoll).build::<()>();
        if let Ok(net) = forced {
            assert_eq!(net.backend().backend, Backend::Epoll);
        }
        return;
    }
    let all = [
        ("NETLIB_BACKEND", "epoll", "backend=epoll"),
        ("NETLIB_BACKEND", "tokio", "\"tokio\""),
        ("NETLIB_URING_MASK", "ext_arg", "io_uring lacks ext_arg"),
        ("NETLIB_URING_MASK", "multishot", "\"multishot\""),
    ];
    for (name, value, expected) in all {
        let status = Command::new(env::current_exe().unwrap())
            .args(["the_environment_is_heard_and_checked", "--exact"])
            .env_remove("NETLIB_BACKEND")
            .env(CHILD, expected)
            .env(name, value)
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "{name}={value} is not {expected}");
    }
}

/// Lowers the number of descriptors that this process may have.
fn limit_descriptors(count: u64) {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: 20_000 };
    // SAFETY: `limit` is a valid value for the length of the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Where a sandbox forbids io_uring, `Auto` serves on epoll and says why, and `Uring` is a typed
/// error; both without and with a filter that pretends the call did not exist.
#[test]
fn a_sandbox_without_io_uring_gets_epoll() {
    if let Ok(errno) = env::var(CHILD) {
        return start_in_a_sandbox(errno.parse().unwrap());
    }
    for (errno, name) in [(libc::EPERM, "EPERM"), (libc::ENOSYS, "ENOSYS")] {
        let test = "a_sandbox_without_io_uring_gets_epoll";
        let (child, _stdin, mut lines) = Guard::start(test, &errno.to_string());
        let line = marked(&mut lines, "backend=epoll");
        assert!(line.contains(name) && line.contains("to mend it"), "{line}");
        let address = marked(&mut lines, "listening on ");
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(&pdu(1)).unwrap();
        let mut answer = [0; 17];
        client.read_exact(&mut answer).unwrap();
        drop(client);
        child.expect_success();
    }
}

fn start_in_a_sandbox(errno: i32) {
    forbid_io_uring(errno);
    let refused = Options::new().backend(Backend::Uring).build::<u32>();
    let Err(BuildError::Uring(UringError::Setup(given))) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(given, Errno(errno));
    let mut net = Options::new().backend(Backend::Auto).build().unwrap();
    assert_eq!(net.backend().fallback, Some(UringError::Setup(Errno(errno))));
    println!("\n{}", net.backend());
    let listener = net.listen("127.0.0.1:0", echo, 0).unwrap();
    let Address::Ip(address) = net.option(listener).unwrap().local_address().unwrap() else {
        panic!("an IPv4 address");
    };
    println!("\nlistening on {address}");
    let mut count = 0;
    while net.stats().closed == 0 {
        net.turn(&mut count, Duration::from_secs(10)).unwrap();
    }
    assert_eq!(count, 1);
}

/// Lets `io_uring_setup` fail on this thread with an errno, and allows the rest.
fn forbid_io_uring(errno: i32) {
    let number = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let refusal = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap();
    let one = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt,
        jf,
        k,
    };
    let mut filter = [
        // The system call's number is the first word of what a filter sees.
        one(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        one(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        one(libc::BPF_RET | libc::BPF_K, 0, 0, refusal),
        one(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: takes plain numbers.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `program` points at four instructions that live for the length of the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

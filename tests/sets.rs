//! Reconnect sets: every end is followed by an attempt, when the back-off says so and not before.
//!
//! Time is the test's: an hour of waits takes as long as its connections do.

mod support;

use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use support::sets::{App, Client, Member, Script, Server, seconds, watch};
use support::{Address, DEADLINE, Netlib, Options, Stale, frame, on_every_backend, silent_socket};
use uring_netlib::AddressError;
use uring_netlib::conn::{
    Answer, Backoff, Call, Connection, Context, MemberInfo, MemberState, SetError,
};
use uring_netlib::pdu::Header;

/// With TeamTalk's timing a port that refuses is tried at the seconds that were traced.
#[test]
fn a_refusing_port_is_tried_at_teamtalks_seconds() {
    on_every_backend(|lane| {
        let (_silent, address) = silent_socket();
        let mut client = Client::new(lane);
        let set = client.set(vec![address], Backoff::teamtalk());
        assert!(client.app.log.is_empty() && client.app.attempts.is_empty(), "C1");
        client.turn();
        for wait in [4, 8, 16, 32, 64, 4, 8] {
            assert_eq!(client.until_waiting(set, 0), seconds(wait));
            client.wait_out(seconds(wait));
        }
        let expected = [0, 4, 12, 28, 60, 124, 128, 136].map(|second| second * 1000);
        assert_eq!(client.app.attempts, expected);
        client.net.close_set(set).unwrap();
        client.expect_nothing_left();
    });
}

/// A member's whole life is told in order, to its object and to the set's watcher. Its object finds
/// it among the open members already, and not any more.
#[test]
fn a_life_is_told_in_order() {
    on_every_backend(|lane| {
        let count: Script = |app, net, set| {
            let open = net.set(set).unwrap().open().len();
            app.write(0, &format!("{open} open"));
        };
        let (mut server, mut client) = (Server::new(), Client::new(lane));
        client.app.script = Some(("confirm", count));
        let set = client.set(vec![server.address], Backoff::teamtalk());
        client.until_logged("connecting -> open 0");
        client.app.script = Some(("close", count));
        server.accept();
        client.clock.advance(seconds(2));
        server.kill();
        client.until_waiting(set, 0);
        client.turn();
        let expected = [
            "0 0 waiting -> connecting",
            "0 0 confirm",
            "0 0 1 open",
            "0 0 connecting -> open 0",
            "2 0 close PeerClosed",
            "2 0 0 open",
            "2 0 open 2 -> waiting 4 because Closed(PeerClosed)",
        ];
        assert_eq!(client.app.log, expected);
    });
}

/// A server that was killed and is back is found again, four seconds after the drop at first, and
/// each time that it drops.
#[test]
fn a_server_that_is_back_is_found_again() {
    on_every_backend(|lane| {
        let (mut server, mut client) = (Server::new(), Client::new(lane));
        let set = client.set(vec![server.address], Backoff::teamtalk());
        for _ in 0..3 {
            client.until_open(set, 1);
            server.accept();
            client.clock.advance(seconds(100));
            server.kill();
            assert_eq!(client.until_waiting(set, 0), seconds(4));
            client.wait_out(seconds(4));
            assert_eq!(client.until_waiting(set, 0), seconds(8), "still away");
            server.restart();
            client.wait_out(seconds(8));
        }
        client.until_open(set, 1);
        client.net.abort_set(set).unwrap();
        client.expect_nothing_left();
    });
}

/// A peer that accepts and closes at once, a thousand times over, leaves nothing behind.
#[test]
fn a_flapping_peer_leaves_nothing_behind() {
    on_every_backend(|lane| {
        let (mut server, mut client) = (Server::new(), Client::new(lane));
        let set = client.set(vec![server.address], Backoff::teamtalk());
        client.turn();
        for count in 1..=1000 {
            client.until("attempt", |client| {
                client.app.log.last().is_some_and(|last| last.ends_with("open 0"))
            });
            server.accept();
            server.clients.clear();
            let wait = client.until_waiting(set, 0);
            client.until("end", |client| client.net.stats().sockets == 0);
            assert_eq!((client.app.attempts.len(), client.alive.get()), (count, 0));
            assert_eq!(client.net.stats().timers, 1, "one alarm per wait");
            client.app.log.clear();
            client.clock.advance(wait);
            client.turn();
        }
        client.net.close_set(set).unwrap();
        client.expect_nothing_left();
    });
}

/// A connection that ends before it was open for a while does not make the waits begin anew, so a
/// flapping peer is tried less and less; one that stayed does.
#[test]
fn short_connections_do_not_reset_the_waits() {
    on_every_backend(|lane| {
        let (mut server, mut client) = (Server::new(), Client::new(lane));
        let backoff = Backoff::new().jitter(false);
        let set = client.set(vec![server.address], backoff);
        let mut waits = Vec::new();
        for open in [0, 9, 0, 0, 0, 0, 0, 0, 10, 0] {
            client.until_open(set, 1);
            server.accept();
            client.clock.advance(seconds(open));
            server.clients.clear();
            let wait = client.until_waiting(set, 0);
            waits.push(wait.as_millis());
            client.wait_out(wait);
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 500, 1000]);
    });
}

/// Members of one set draw their waits by themselves, so they do not come back all at once.
#[test]
fn waits_of_members_differ() {
    on_every_backend(|lane| {
        let (_silent, address) = silent_socket();
        let mut client = Client::new(lane);
        let set = client.set(vec![address; 20], Backoff::new().seed(1));
        client.turn();
        let mut waits: Vec<_> = (0..20).map(|index| client.until_waiting(set, index)).collect();
        let half = Duration::from_millis(250);
        assert!(waits.iter().all(|wait| (half..=half * 2).contains(wait)), "{waits:?}");
        waits.sort_unstable();
        waits.dedup();
        assert_eq!(waits.len(), 20);
    });
}

/// An attempt that cannot even start is a failure like any other, and told as one.
#[test]
fn an_immediate_failure_is_a_failure() {
    on_every_backend(|lane| {
        let server = Server::new();
        let mut client = Client::with(lane.options().sockets_max(1));
        let factory = |_: &mut App, _| -> Box<dyn Connection<App>> { unreachable!("no client") };
        let listener = client.net.listen_objects("127.0.0.1:0", factory).unwrap();
        let set = client.set(vec![server.address], Backoff::teamtalk());
        client.turn();
        for wait in [4, 8] {
            assert_eq!(client.until_waiting(set, 0), seconds(wait));
            let at = client.clock.elapsed().as_secs();
            let expected = [
                format!("{at} 0 waiting -> connecting"),
                format!("{at} 0 connecting -> waiting {wait} because NotStarted(TooMany)"),
            ];
            assert_eq!(client.app.log, expected);
            client.app.log.clear();
            client.wait_out(seconds(wait));
        }
        client.net.close(listener).unwrap();
        client.until("room", |client| client.net.stats().sockets == 0);
        client.wait_out(seconds(16));
        client.until_open(set, 1);
    });
}

/// So is an address that the kernel does not take, whatever the others of the set do.
#[test]
fn an_address_that_the_kernel_refuses_is_a_failure() {
    on_every_backend(|lane| {
        let (server, mut client) = (Server::new(), Client::new(lane));
        let too_long = Address::Path("x".repeat(200).into());
        let set = client.set(vec![too_long, server.address.into()], Backoff::teamtalk());
        client.until_open(set, 1);
        assert_eq!(client.until_waiting(set, 0), seconds(4));
        let refusal = "0 0 connecting -> waiting 4 because NotStarted(System(";
        client.until("refusal", |client| {
            client.app.log.iter().any(|entry| entry.starts_with(refusal))
        });
        client.wait_out(seconds(4));
        assert_eq!(client.until_waiting(set, 0), seconds(8));
        assert_eq!(client.open(set).len(), 1);
    });
}

/// A host name without an address fails, and is looked up again.
#[test]
fn a_name_without_an_address_is_looked_up_again() {
    on_every_backend(|lane| {
        // Too long a label for any resolver, so that none is asked.
        let nowhere = format!("{}.invalid:80", "x".repeat(64));
        let mut client = Client::new(lane);
        let set = client.set(vec![nowhere.as_str()], Backoff::teamtalk());
        client.turn();
        assert_eq!(client.state(set, 0), MemberState::Connecting);
        for wait in [4, 8] {
            assert_eq!(client.until_waiting(set, 0), seconds(wait));
            client.until_logged(&format!("waiting {wait} because Closed(ResolveFailed)"));
            client.wait_out(seconds(wait));
        }
        client.net.close_set(set).unwrap();
        client.expect_nothing_left();
    });
}

/// Whatever user code panics, the member is tried again, and the watcher goes on watching.
#[test]
fn panics_are_failures_and_contained() {
    on_every_backend(|lane| {
        let panic: Script = |_, _, _| panic!("as it was asked to");
        let (mut server, mut client) = (Server::new(), Client::new(lane));
        let set = client.set(vec![server.address], Backoff::teamtalk());
        client.app.script = Some(("factory", panic));
        client.turn();
        assert_eq!(client.until_waiting(set, 0), seconds(4));
        client.until_logged("connecting -> waiting 4 because Closed(Panicked)");
        client.app.script = Some(("confirm", panic));
        client.wait_out(seconds(4));
        assert_eq!(client.until_waiting(set, 0), seconds(4));
        client.until_logged("open 0 -> waiting 4 because Closed(Panicked)");
        server.accept();
        client.app.script = Some(("close", panic));
        client.wait_out(seconds(4));
        client.until_open(set, 1);
        server.accept();
        server.clients.clear();
        assert_eq!(client.until_waiting(set, 0), seconds(4));
        client.until_logged("open 0 -> waiting 4 because Closed(PeerClosed)");
        client.app.script = Some(("watcher", panic));
        client.app.log.clear();
        client.wait_out(seconds(4));
        client.until_logged("connecting -> open 0");
        assert_eq!(client.net.stats().panics, 4);
        client.net.abort_set(set).unwrap();
        client.expect_nothing_left();
    });
}

/// A member that the application closes is tried again; its watcher is told by the loop, and the
/// object is not.
#[test]
fn a_member_closed_by_the_application_comes_back() {
    on_every_backend(|lane| {
        let (mut server, mut client) = (Server::new(), Client::new(lane));
        let set = client.set(vec![server.address], Backoff::teamtalk());
        for end in [Netlib::close, Netlib::abort] {
            client.until_open(set, 1);
            server.accept();
            client.until_logged("open 0");
            client.app.log.clear();
            let handle = client.open(set)[0];
            end(&mut client.net, handle).unwrap();
            assert!(client.app.log.is_empty(), "C1: {:?}", client.app.log);
            assert_eq!(client.alive.get(), 0);
            // There is something to be told, so this does not wait.
            let start = Instant::now();
            client.net.turn(&mut client.app, DEADLINE).unwrap();
            assert!(start.elapsed() < DEADLINE);
            let at = client.clock.elapsed().as_secs();
            let told = format!("{at} 0 open 0 -> waiting 4 because ByApplication");
            assert_eq!(client.app.log, [told]);
            server.clients.clear();
            client.until("end", |client| client.net.stats().sockets == 0);
            client.wait_out(seconds(4));
        }
    });
}

/// So is one that nothing is outstanding for, so that it is gone in the very call that closes it.
#[test]
fn a_member_that_is_gone_at_once_comes_back() {
    on_every_backend(|lane| {
        let (mut server, mut client) = (Server::new(), Client::new(lane));
        let set = client.set(vec![server.address], Backoff::teamtalk());
        client.until_open(set, 1);
        server.accept();
        let member = client.open(set)[0];
        client.net.pause_receive(member).unwrap();
        for _ in 0..20 {
            client.net.turn(&mut client.app, Duration::from_millis(1)).unwrap();
        }
        client.net.abort(member).unwrap();
        assert_eq!(client.net.stats().sockets, 0, "nothing was outstanding");
        assert_eq!(client.until_waiting(set, 0), seconds(4));
        client.wait_out(seconds(4));
        client.until_open(set, 1);
        client.net.abort_set(set).unwrap();
        client.expect_nothing_left();
    });
}

/// The member that has been open for the longest is master; when it is lost the next one is, from
/// the moment in which its object hears of the end.
#[test]
fn the_oldest_is_master_and_moves() {
    on_every_backend(|lane| {
        let mut servers = [(); 3].map(|()| Server::new());
        let addresses = servers.iter().map(|server| server.address).collect();
        servers[0].kill();
        servers[2].kill();
        let mut client = Client::new(lane);
        let set = client.set(addresses, Backoff::teamtalk());
        let master_index = |client: &mut Client| {
            let set = client.net.set(set).unwrap();
            let master = set.master()?;
            let is_master =
                |state| matches!(state, MemberState::Open { handle, .. } if handle == master);
            set.members().position(|member| is_master(member.state))
        };
        assert_eq!(master_index(&mut client), None);
        client.until_open(set, 1);
        client.until_waiting(set, 0);
        client.until_waiting(set, 2);
        assert_eq!(master_index(&mut client), Some(1));
        servers[0].restart();
        client.clock.advance(seconds(4));
        client.until_open(set, 2);
        client.until_waiting(set, 2);
        servers[2].restart();
        client.clock.advance(seconds(8));
        client.until_open(set, 3);
        assert_eq!(master_index(&mut client), Some(1), "it stays for as long as it is open");
        client.app.script = Some(("close", |app, net, set| {
            let master = net.set(set).unwrap().master().unwrap();
            let is_open = net.send(master, b"").is_ok();
            app.write(9, &format!("master {is_open}"));
        }));
        servers[1].accept();
        servers[1].kill();
        client.until_logged("9 master true");
        assert_eq!(master_index(&mut client), Some(0));
        servers[0].accept();
        servers[0].kill();
        client.until_open(set, 1);
        assert_eq!(master_index(&mut client), Some(2));
    });
}

/// A call whose member is lost is told so when another member is master already, so that it can be
/// made again there.
#[test]
fn a_call_that_lost_its_member_finds_another() {
    on_every_backend(|lane| {
        let mut servers = [(); 2].map(|()| Server::new());
        let mut client = Client::new(lane);
        let addresses = servers.iter().map(|server| server.address).collect();
        let set = client.set(addresses, Backoff::teamtalk());
        client.until_open(set, 2);
        let [master, other] = client.open(set)[..] else { panic!("two are open") };
        let call = Call::new(Header::new(7, 1), 2);
        let handler = move |member: &mut Member,
                            app: &mut App,
                            context: &mut Context<'_, App>,
                            answer: Answer<'_>| {
            let master = context.net().set(member.set).unwrap().master();
            app.write(9, &format!("{:?}, {}", answer.map(drop), master == Some(other)));
        };
        client.net.call(master, call, &(), seconds(60), handler).unwrap();
        for server in &mut servers {
            server.accept();
        }
        let MemberState::Open { handle, .. } = client.state(set, 0) else { panic!("it is open") };
        servers[usize::from(handle != master)].kill();
        client.until_logged(" true");
        let told = client.app.log.iter().find(|entry| entry.contains(" 9 ")).unwrap();
        assert!(told.contains("Err(Closed("), "{told}");
    });
}

/// Picks go to open members only: in turn, and by a key that stays with its member.
#[test]
fn picks_are_of_open_members() {
    on_every_backend(|lane| {
        let mut servers = [(); 3].map(|()| Server::new());
        let mut client = Client::new(lane);
        let addresses = servers.iter().map(|server| server.address).collect();
        let set = client.set(addresses, Backoff::teamtalk());
        assert_eq!(client.net.set(set).unwrap().pick(), None);
        assert_eq!(client.net.set(set).unwrap().pick_by(1), None);
        client.until_open(set, 3);
        let all = client.open(set);
        let mut view = client.net.set(set).unwrap();
        let picked = [0; 6].map(|_| view.pick().unwrap());
        assert_eq!(picked[..], [&all[..], &all[..]].concat());
        let places = |client: &mut Client| {
            let view = client.net.set(set).unwrap();
            (0..300).map(|key| view.pick_by(key).unwrap()).collect::<Vec<_>>()
        };
        let before = places(&mut client);
        assert!(all.iter().all(|member| before.contains(member)), "each has its keys");
        servers[1].accept();
        servers[1].kill();
        client.until_open(set, 2);
        let left = client.open(set);
        for (was, is) in before.iter().zip(places(&mut client)) {
            assert!(left.contains(&is) && (*was == is || !left.contains(was)));
        }
        let mut view = client.net.set(set).unwrap();
        let picked = [0; 4].map(|_| view.pick().unwrap());
        assert_eq!(picked[..], [&left[..], &left[..]].concat());
    });
}

/// A set can be closed in whatever state its members are, and leaves nothing behind.
#[test]
fn a_set_closes_in_every_state() {
    on_every_backend(|lane| {
        for end in [Netlib::close_set, Netlib::abort_set] {
            let (mut server, (_silent, refusing)) = (Server::new(), silent_socket());
            let mut client = Client::new(lane);
            let fresh = client.set(vec![server.address], Backoff::teamtalk());
            end(&mut client.net, fresh).unwrap();
            client.expect_nothing_left();
            let addresses = vec![server.address, refusing];
            let set = client.set(addresses, Backoff::teamtalk());
            client.until_open(set, 1);
            client.until_waiting(set, 1);
            server.accept();
            // Both its kinds of being on the way: a name being resolved, and an address.
            let addresses = vec!["localhost:1".parse().unwrap(), Address::Ip(server.address)];
            let connecting = client.set(addresses, Backoff::teamtalk());
            client.turn();
            assert_eq!(client.state(connecting, 0), MemberState::Connecting);
            for set in [set, connecting] {
                end(&mut client.net, set).unwrap();
                assert_eq!(end(&mut client.net, set), Err(Stale));
                assert_eq!(client.net.set(set).unwrap_err(), Stale);
                assert_eq!(client.net.watch_set(set, watch), Err(Stale));
            }
            server.kill();
            client.expect_nothing_left();
        }
    });
}

/// A set can be closed by whatever user code it calls, and nothing more is told of it.
#[test]
fn a_set_closes_inside_of_each_callback() {
    on_every_backend(|lane| {
        for place in ["watcher", "confirm", "pdu", "close"] {
            let mut server = Server::new();
            let mut client = Client::new(lane);
            client.app.script = Some((place, |app, net, set| {
                net.close_set(set).unwrap();
                app.log.clear();
            }));
            // The others of the set are on their way meanwhile.
            let set = client.set(vec![server.address; 3], Backoff::teamtalk());
            if place != "watcher" && place != "confirm" {
                client.until_open(set, 3);
                client.turn();
                server.accept().write_all(&frame(20, 0)).unwrap();
            }
            if place == "close" {
                server.clients.clear();
            }
            client.until(place, |client| client.app.script.is_none());
            server.kill();
            client.expect_nothing_left();
            assert!(client.app.log.is_empty(), "{place}: {:?}", client.app.log);
        }
    });
}

/// A set can be made by a callback, a watcher put in the place of another, and a connection's
/// object told from which member it is.
#[test]
fn sets_are_made_inside_of_callbacks() {
    on_every_backend(|lane| {
        let server = Server::new();
        let mut client = Client::new(lane);
        client.set(vec![server.address], Backoff::teamtalk());
        client.app.script = Some(("confirm", |_, net, set| {
            let address = net.set(set).unwrap().members().next().unwrap().address.clone();
            let factory = |app: &mut App, info: MemberInfo<'_>| -> Box<dyn Connection<App>> {
                app.write(info.index, "second set");
                Member::new(info, &Rc::default())
            };
            let second = net.connect_set([address], Backoff::new(), factory).unwrap();
            net.watch_set(set, |app, _, _| app.write(0, "the old set")).unwrap();
            net.watch_set(second, |app: &mut App, net, change| {
                app.write(change.index, "first watcher");
                net.watch_set(change.set, watch).unwrap();
            })
            .unwrap();
        }));
        client.until_logged("connecting -> open 0");
        let told: Vec<&str> = client.app.log.iter().map(String::as_str).collect();
        assert_eq!(told[..3], ["0 0 waiting -> connecting", "0 0 confirm", "0 0 second set"]);
        assert!(told.contains(&"0 0 the old set") && told.contains(&"0 0 first watcher"));
    });
}

/// A list that makes no set is refused, with the address that is wrong.
#[test]
fn lists_that_make_no_set_are_refused() {
    let mut net: Netlib<App> = Options::new().build().unwrap();
    let mut make = |addresses: Vec<&str>| {
        let factory = |_: &mut App, _: MemberInfo<'_>| -> Box<dyn Connection<App>> {
            unreachable!("nothing is connected")
        };
        net.connect_set(addresses, Backoff::new(), factory)
    };
    assert_eq!(make(vec![]), Err(SetError::NoAddress));
    let source = AddressError::NoPort;
    assert_eq!(make(vec!["[::1]:1", "localhost"]), Err(SetError::Address { index: 1, source }));
    assert!(make(vec!["127.0.0.1:1"; 4096]).is_ok());
    assert_eq!(make(vec!["127.0.0.1:1"; 4097]), Err(SetError::TooManyAddresses));
    let factory = |_: &mut App, _: MemberInfo<'_>| -> Box<dyn Connection<App>> {
        unreachable!("nothing is connected")
    };
    let refused = net.connect_set([Address::Unnamed], Backoff::new(), factory);
    let source = AddressError::BadPath;
    assert_eq!(refused, Err(SetError::Address { index: 0, source }));
}

//! Where sockets listen and connect to, who their ends are, and their options.

mod support;

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use support::*;

/// Connects to a listener from the same world, says something through it, and gives the two
/// handles: the client's and the server's.
fn converse<T: TryInto<Address>>(world: &mut World, address: T) -> (Handle, Handle)
where
    ConnectError: From<T::Error>,
{
    let before = world.app.handles_by(SERVER).len();
    let client = world.connect(address);
    world.turn_until("a connection", |world| {
        world.app.handles_by(SERVER).len() > before && world.app.log_of(client) == [Entry::Confirm]
    });
    let server = world.app.handles_by(SERVER)[before];
    world.net.send(client, &frame(20, 1)).unwrap();
    world.net.send(server, &frame(30, 2)).unwrap();
    world.turn_until("a PDU each way", |world| {
        world.app.received(server) == frame(20, 1) && world.app.received(client) == frame(30, 2)
    });
    (client, server)
}

fn listen_at<T: TryInto<Address>>(world: &mut World, address: T) -> Handle
where
    ListenError: From<T::Error>,
{
    let listener = world.net.listen(address, on_event, SERVER).expect("the address is free");
    world.app.own(listener)
}

fn local_of(world: &mut World, handle: Handle) -> Address {
    world.net.option(handle).unwrap().local_address().unwrap()
}

fn remote_of(world: &mut World, handle: Handle) -> Address {
    world.net.option(handle).unwrap().remote_address().unwrap()
}

/// Some containers have no IPv6; what needs it is skipped there.
fn has_ipv6() -> bool {
    let has = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has {
        eprintln!("skipped: there is no IPv6 here");
    }
    has
}

/// IPv4 and IPv6: each end knows itself and the other.
#[test]
fn both_ends_know_both_addresses() {
    on_every_backend(|lane| {
        for text in ["127.0.0.1:0", "[::1]:0"] {
            if text.starts_with('[') && !has_ipv6() {
                continue;
            }
            let mut world = World::new(lane);
            let listener = listen_at(&mut world, text);
            let address = local_of(&mut world, listener);
            let (client, server) = converse(&mut world, &address);
            assert_eq!(remote_of(&mut world, client), address);
            assert_eq!(local_of(&mut world, server), address);
            assert_eq!(remote_of(&mut world, server), local_of(&mut world, client));
        }
    });
}

/// An IPv6 listener takes no IPv4 client, whatever the system's own default is.
#[test]
fn ipv6_means_ipv6_only() {
    on_every_backend(|lane| {
        if !has_ipv6() {
            return;
        }
        let mut world = World::new(lane);
        let listener = listen_at(&mut world, (Ipv6Addr::UNSPECIFIED, 0));
        let port = world.port_of(listener).port();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
        converse(&mut world, (Ipv6Addr::LOCALHOST, port));
    });
}

/// A dual-stack listener takes both kinds, by request.
#[test]
fn a_dual_stack_listener_takes_both() {
    on_every_backend(|lane| {
        if !has_ipv6() {
            return;
        }
        let mut world = World::new(lane);
        let options = ListenOptions::new().dual_stack(true);
        let any = (Ipv6Addr::UNSPECIFIED, 0);
        let listener = world.net.listen_with(any, options, on_event, SERVER).unwrap();
        world.app.own(listener);
        let port = world.port_of(listener).port();
        converse(&mut world, (Ipv6Addr::LOCALHOST, port));
        let (_, server) = converse(&mut world, (Ipv4Addr::LOCALHOST, port));
        let Address::Ip(SocketAddr::V6(mapped)) = remote_of(&mut world, server) else { panic!() };
        assert_eq!(mapped.ip().to_ipv4_mapped(), Some(Ipv4Addr::LOCALHOST));
    });
}

/// A port that is taken is refused, and shared by request.
#[test]
fn a_taken_port_is_refused_and_can_be_shared() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_, address) = world.listen();
        let refused = world.net.listen(address, on_event, SERVER);
        let Err(ListenError::System(error)) = refused else { panic!("{refused:?}") };
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(world.net.stats().sockets, 1, "nothing is left behind");

        let shared = ListenOptions::new().reuse_port(true);
        let any = (Ipv4Addr::LOCALHOST, 0);
        let first = world.net.listen_with(any, shared, on_event, SERVER).unwrap();
        world.app.own(first);
        let address = world.port_of(first);
        let second = world.net.listen_with(address, shared, on_event, SERVER).unwrap();
        world.app.own(second);
        converse(&mut world, address);
    });
}

/// A listener has its own address, and a client's mistake is told before anything starts.
#[test]
fn addresses_that_cannot_be_are_refused() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let net = &mut world.net;
        for text in ["localhost:80", "nonsense", "unix:", "[::1]"] {
            let refused = net.listen(text, on_event, SERVER);
            assert!(matches!(refused, Err(ListenError::Address(_))), "{text}: {refused:?}");
        }
        for text in ["nonsense", "unix:", "1.2.3.4", "a b:80"] {
            let refused = net.connect(text, on_event, CLIENT);
            assert!(matches!(refused, Err(ConnectError::Address(_))), "{text}: {refused:?}");
        }
        let refused = net.connect(Address::Unnamed, on_event, CLIENT);
        assert!(matches!(refused, Err(ConnectError::Address(_))), "{refused:?}");
        // An address of nobody here.
        let refused = net.listen("192.0.2.1:0", on_event, SERVER);
        assert!(matches!(refused, Err(ListenError::System(_))), "{refused:?}");
        assert_eq!(net.stats().sockets, 0);
    });
}

/// A path of a Unix-domain socket; its clients have no name.
#[test]
fn unix_paths_work() {
    on_every_backend(|lane| {
        let folder = Folder::new("works");
        let address = Address::Path(folder.path("socket"));
        let mut world = World::new(lane);
        let listener = listen_at(&mut world, &address);
        assert_eq!(local_of(&mut world, listener), address);
        let (client, server) = converse(&mut world, &address);
        assert_eq!(remote_of(&mut world, client), address);
        assert_eq!(local_of(&mut world, server), address);
        assert_eq!(remote_of(&mut world, server), Address::Unnamed);
        // From another program.
        let mut peer = unix_peer(&folder.path("socket"));
        world.write(&mut peer, &frame(20, 3));
        world.turn_until("its PDU", |world| {
            world.app.handles_by(SERVER).len() == 2
                && world.app.count(|entry| *entry == Entry::Pdu(20)) == 2
        });
    });
}

/// A socket file whose listener is gone is taken over; one that is served is not.
#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
    on_every_backend(|lane| {
        let folder = Folder::new("stale");
        let path = folder.path("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let mut world = World::new(lane);
        let address = Address::Path(path.clone());
        let listener = listen_at(&mut world, &address);
        converse(&mut world, &address);
        assert_in_use(&mut world, &address);
        converse(&mut world, &address);
        world.net.close(listener).unwrap();
        world.turn_until("it is gone", |world| world.net.state(listener).is_err());

        fs::remove_file(&path).ok();
        let _live = UnixListener::bind(&path).unwrap();
        assert_in_use(&mut world, &address);
        unix_peer(&path);
    });
}

/// A file that is no socket is never touched, and neither is a folder.
#[test]
fn files_that_are_no_sockets_are_kept() {
    on_every_backend(|lane| {
        let folder = Folder::new("kept");
        let path = folder.path("file");
        fs::write(&path, "precious").unwrap();
        let mut world = World::new(lane);
        assert_in_use(&mut world, &Address::Path(path.clone()));
        assert_in_use(&mut world, &Address::Path(folder.path("")));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(folder.path("").is_dir());
    });
}

fn assert_in_use(world: &mut World, address: &Address) {
    let refused = world.net.listen(address, on_event, SERVER);
    let Err(ListenError::System(error)) = refused else { panic!("{refused:?}") };
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{address}");
    // To find out whether a path is served, it is connected to: that client has gone by now.
    world.settle();
}

/// Names in the abstract name space need no file.
#[test]
fn abstract_names_work() {
    on_every_backend(|lane| {
        let text = format!("unix:@netlib-{}-abstract", std::process::id());
        let address: Address = text.parse().unwrap();
        let mut world = World::new(lane);
        let listener = listen_at(&mut world, &address);
        assert_eq!(local_of(&mut world, listener), address);
        let (client, _) = converse(&mut world, text.as_str());
        assert_eq!(remote_of(&mut world, client), address);
        assert_in_use(&mut world, &address);
    });
}

/// A host name is resolved elsewhere and then connected to; the handle is there from the start.
#[test]
fn a_host_name_is_resolved_and_connected() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_, address) = world.listen();
        let name = format!("localhost:{}", address.port());
        let client = world.connect(name.as_str());
        assert_eq!(world.net.state(client), Ok(SocketState::Idle));
        let option = world.net.option(client).unwrap();
        assert!(matches!(option.local_address(), Err(OptionError::NotYet)));
        assert!(matches!(option.nodelay(), Err(OptionError::NotYet)));
        // It is accepted as well, so that it is not taken for the next one.
        world.turn_until("a connection", |world| {
            world.app.log_of(client) == [Entry::Confirm] && !world.app.handles_by(SERVER).is_empty()
        });
        converse(&mut world, name.as_str());
    });
}

/// A host name without an address ends the attempt, told once.
#[test]
fn a_host_name_without_an_address_is_told() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        // Too long a label for any resolver, so that none is asked.
        let client = world.connect(format!("{}.invalid:80", "x".repeat(64)).as_str());
        world.turn_until("a failure", |world| world.net.stats().sockets == 0);
        let expected = [Entry::Close(CloseReason::ResolveFailed)];
        assert_eq!(world.app.log_of(client), expected);
    });
}

/// A host name all of whose addresses refuse is refused, told once.
#[test]
fn a_host_that_refuses_is_told() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_silent, address) = silent_socket();
        let client = world.connect(format!("localhost:{}", address.port()).as_str());
        world.turn_until("a refusal", |world| world.net.stats().sockets == 0);
        assert_eq!(world.app.log_of(client), [Entry::Close(CloseReason::Refused)]);
    });
}

/// What is set is what is read, at both kinds of ends.
#[test]
fn options_are_read_as_they_were_set() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_, address) = world.listen();
        let (client, server) = converse(&mut world, address);
        for handle in [client, server] {
            let mut option = world.net.option(handle).unwrap();
            // The kernel doubles what it is asked for.
            option.set_send_buffer_size(20_000).unwrap();
            assert_eq!(option.send_buffer_size().unwrap(), 40_000);
            option.set_receive_buffer_size(30_000).unwrap();
            assert_eq!(option.receive_buffer_size().unwrap(), 60_000);

            assert!(option.nodelay().unwrap(), "the default");
            option.set_nodelay(false).unwrap();
            assert!(!option.nodelay().unwrap());

            assert_eq!(option.keepalive().unwrap(), None, "the default");
            for (asked, told) in [(30_000, 30), (200, 1)] {
                option.set_keepalive(Some(Duration::from_millis(asked))).unwrap();
                assert_eq!(option.keepalive().unwrap(), Some(Duration::from_secs(told)));
            }
            option.set_keepalive(None).unwrap();
            assert_eq!(option.keepalive().unwrap(), None);

            let delivery = Delivery::Pdu(FrameSpec::teamtalk().with_max(77));
            option.set_delivery(delivery).unwrap();
            let unfit = Delivery::Pdu(FrameSpec::teamtalk().with_max(3));
            assert!(matches!(option.set_delivery(unfit), Err(OptionError::Frame(_))));
            assert_eq!(option.delivery(), delivery);
            option.set_user_data(123);
            assert_eq!(option.user_data(), 123);
            assert_eq!((option.pending_bytes(), option.undelivered_bytes()), (0, 0));
        }
    });
}

/// A Unix-domain socket has no Nagle delay to switch off, and says so when it is told to.
#[test]
fn a_unix_domain_socket_knows_no_nodelay() {
    on_every_backend(|lane| {
        let address = format!("unix:@netlib-{}-nodelay", std::process::id());
        let mut world = World::new(lane);
        listen_at(&mut world, address.as_str());
        let (client, _) = converse(&mut world, address.as_str());
        let mut option = world.net.option(client).unwrap();
        assert!(option.nodelay().unwrap());
        assert!(matches!(option.set_nodelay(true), Err(OptionError::System(_))));
    });
}

//! The event loop: its callbacks, its end, and what other threads can ask of it.

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::*;

/// Loop callbacks come at the end of each turn, in the order in which they were added.
#[test]
fn loop_callbacks_come_in_order_at_the_end_of_each_turn() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.net.register_timer(Duration::ZERO, Repeat::Once, on_event, 9);
        for label in 1..=3 {
            world.net.add_loop(on_event, label);
        }
        world.script(|app, net, _, event| {
            if let Event::Loop { user_data: 3, .. } = event {
                app.note(net, Handle::NONE, "turn");
            }
        });
        world.turn_until("the timer", |world| world.app.handles_by(9).len() == 1);
        let turn = [Entry::Loop, Entry::Loop, Entry::Loop, Entry::Note("turn")];
        let log = world.app.log();
        assert!(log.ends_with(&[&[Entry::Timer][..], &turn].concat()), "{log:?}");
        world.turn();
        assert_eq!(world.app.log(), [&log[..], &turn].concat());
    });
}

/// A loop callback that adds one is followed by it from the next turn on; one that is removed, by
/// itself or by another, is not called any more, not even in this turn.
#[test]
fn loop_callbacks_can_be_added_and_removed_inside_of_them() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let first = world.net.add_loop(on_event, 1);
        let second = world.net.add_loop(on_event, 2);
        world.net.add_loop(on_event, 3);
        world.script(move |app, net, _, event| match event {
            Event::Loop { user_data: 1, id } => {
                assert_eq!(*id, first);
                net.add_loop(on_event, 4);
                net.remove_loop(first).unwrap();
                net.remove_loop(second).unwrap();
                assert_eq!(net.remove_loop(second), Err(Stale));
            }
            Event::Loop { user_data: 3, .. } => app.note(net, Handle::NONE, "three"),
            _ => {}
        });
        world.turn();
        assert_eq!(world.app.log(), [Entry::Loop, Entry::Loop, Entry::Note("three")]);
        assert!(world.app.handles_by(4).is_empty(), "added in this turn");
        world.turn();
        assert!(world.app.handles_by(2).is_empty(), "removed before its call");
        assert_eq!(world.app.handles_by(4).len(), 1);
        assert_eq!(world.app.logs_by(4)[0].len(), 6, "the first was not called again");
    });
}

/// A loop that looks for completions rather than sleep is ended by another thread's wish, and by a
/// timer, as one that sleeps is.
#[test]
fn a_loop_that_looks_is_ended_as_one_that_sleeps() {
    on_every_backend(|lane| {
        // Without deadlines, which would end a look as well.
        let liveness = Liveness::new().write_stall(Duration::MAX).frame(Duration::MAX);
        let options = lane.options().liveness(liveness).spin(Duration::from_secs(3600));
        let mut world = World::with(options);
        world.echo();
        let (mut peer, _) = world.served_peer();
        // With so many waits behind it, each with its completion, it has come to look.
        for _ in 0..400 {
            peer.write_all(&frame(20, 1)).unwrap();
            world.read(&mut peer, 20);
        }
        let start = Instant::now();
        world.net.register_timer(Duration::from_millis(20), Repeat::Once, on_event, 9);
        while world.app.handles_by(9).is_empty() {
            world.turn_for(DEADLINE);
        }
        let remote = world.net.remote();
        let other = thread::spawn(move || {
            thread::yield_now();
            remote.stop();
        });
        world.net.eventloop(&mut world.app, DEADLINE).unwrap();
        other.join().unwrap();
        assert!(start.elapsed() < DEADLINE / 2, "it looked for {:?}", start.elapsed());
    });
}

/// `stop` from another thread ends a long wait at once.
#[test]
fn a_stop_from_another_thread_ends_a_long_wait() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (remote, turns) = (world.net.remote(), Arc::new(AtomicU32::new(0)));
        let seen = Arc::clone(&turns);
        world.script(move |_, net, _, event| {
            assert!(net.is_running(), "{event:?}");
            seen.fetch_add(1, Ordering::Relaxed);
        });
        world.net.add_loop(on_event, 1);
        // The wake-up ends the first wait, which may be the one that is meant or not yet begun.
        world.net.remote().wake();
        let other = thread::spawn(move || {
            while turns.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            let asked = Instant::now();
            remote.stop();
            asked
        });
        assert!(!world.net.is_running());
        world.net.eventloop(&mut world.app, DEADLINE).unwrap();
        let delay = other.join().unwrap().elapsed();
        assert!(!world.net.is_running());
        assert!(delay < DEADLINE / 5, "the stop took {delay:?}");
    });
}

/// A stop before the loop ends the next one without a turn, and only that one.
#[test]
fn a_stop_before_the_loop_ends_the_next_one_only() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.net.add_loop(on_event, 1);
        world.net.stop_event();
        world.net.stop_event();
        let start = Instant::now();
        world.net.eventloop(&mut world.app, DEADLINE).unwrap();
        assert!(start.elapsed() < DEADLINE / 5);

        world.net.register_timer(Duration::ZERO, Repeat::Once, on_event, 2);
        world.script(|_, net, _, event| {
            if let Event::Timer { .. } = event {
                net.stop_event();
            }
        });
        world.net.eventloop(&mut world.app, DEADLINE).unwrap();
        let log = world.app.log();
        assert_eq!(log[log.len() - 2..], [Entry::Timer, Entry::Loop], "the turn was finished");
    });
}

/// `turn` is no running loop, and takes no notice of a stop that is meant for one.
#[test]
fn a_turn_leaves_a_stop_to_the_loop() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.script(|_, net, _, event| assert!(!net.is_running(), "{event:?}"));
        let added = world.net.add_loop(on_event, 1);
        world.net.stop_event();
        world.turn();
        world.net.remove_loop(added).unwrap();
        let start = Instant::now();
        world.net.eventloop(&mut world.app, DEADLINE).unwrap();
        assert!(start.elapsed() < DEADLINE / 5);
    });
}

/// No wake-up is lost, however they fall between the turns; each may stand for several.
#[test]
fn no_wake_up_is_lost() {
    const ROUNDS: u32 = 300;
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (asked, answered) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let remote = world.net.remote();
        let (question, answer) = (Arc::clone(&asked), Arc::clone(&answered));
        let other = thread::spawn(move || {
            for round in 1..=ROUNDS {
                question.store(round, Ordering::Release);
                remote.wake();
                while answer.load(Ordering::Acquire) < round {
                    thread::yield_now();
                }
            }
        });
        world.turn_until("all rounds", |_| {
            let round = asked.load(Ordering::Acquire);
            answered.store(round, Ordering::Release);
            round == ROUNDS
        });
        other.join().unwrap();
        assert!(world.net.stats().wakeups > 0);
    });
}

/// A remote that outlives its `Netlib` does nothing.
#[test]
fn a_remote_outlives_its_netlib() {
    on_every_backend(|lane| {
        let world = World::new(lane);
        let remote = world.net.remote();
        drop(world);
        remote.wake();
        remote.stop();
    });
}

/// An idle loop sleeps: without sockets, with an idle connection, and with a paused one.
#[test]
fn an_idle_loop_does_not_spin() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let (_, address) = world.listen();
        let (_idle, _) = world.accepted_peer(address);
        let (mut peer, paused) = world.accepted_peer(address);
        world.net.pause_receive(paused).unwrap();
        world.settle();
        world.write(&mut peer, &frame(20, 1));
        world.settle();
        let (start, before) = (Instant::now(), world.net.stats().waits);
        while start.elapsed() < Duration::from_millis(20) {
            world.turn_for(Duration::from_millis(20));
        }
        let waits = world.net.stats().waits - before;
        assert!(waits < 10, "{waits} waits in 20 ms with nothing to do");
    });
}

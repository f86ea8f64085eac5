//! Timers: never early, in order, in rhythm, and gone when they are deleted.

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use support::*;

/// What timers did: their user data, and when.
type Calls = Rc<RefCell<Vec<(u64, Instant)>>>;

/// A world that writes down the calls of its timers.
fn timed_world(lane: &Lane) -> (World, Calls) {
    let mut world = World::new(lane);
    let calls = Calls::default();
    let written = Rc::clone(&calls);
    world.script(move |_, _, _, event| write_down(&written, event));
    (world, calls)
}

fn write_down(calls: &Calls, event: &Event<'_>) {
    if let Event::Timer { user_data, .. } = event {
        calls.borrow_mut().push((*user_data, Instant::now()));
    }
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A timer fires once, not before its interval has passed, and the earlier one first.
#[test]
fn timers_fire_once_in_order_and_never_early() {
    on_every_backend(|lane| {
        let (mut world, calls) = timed_world(lane);
        let mut registered = Vec::new();
        for (label, interval) in (0..).zip([20, 3, 0, 11, 1].map(ms)) {
            let before = Instant::now();
            let timer = world.net.register_timer(interval, Repeat::Once, on_event, label);
            // A timer takes at least a millisecond.
            let interval = interval.max(ms(1));
            let (earliest, latest) = (before + interval, Instant::now() + interval + ms(1));
            registered.push((timer, earliest, latest));
        }
        world.turn_until("all timers", |_| calls.borrow().len() == registered.len());
        world.settle();
        let due: Vec<_> = calls.borrow().iter().map(|(label, called)| (*label, *called)).collect();
        assert_eq!(due.len(), registered.len(), "once each");
        for (position, (label, called)) in due.iter().enumerate() {
            let (timer, earliest, _) = registered[usize::try_from(*label).unwrap()];
            assert!(*called >= earliest, "timer {label} fired early");
            assert_eq!(world.net.delete_timer(timer), Err(Stale));
            for (later, _) in &due[position..] {
                let (_, _, latest) = registered[usize::try_from(*later).unwrap()];
                assert!(earliest <= latest, "timer {label} overtook timer {later}");
            }
        }
    });
}

/// A timer of no time at all takes a millisecond, wherever in one it is registered.
#[test]
fn an_interval_of_nothing_is_a_millisecond() {
    on_every_backend(|lane| {
        let (mut world, calls) = timed_world(lane);
        for round in 1..=20 {
            let start = Instant::now();
            world.net.register_timer(ms(0), Repeat::Once, on_event, 0);
            world.turn_until("it", |_| calls.borrow().len() == round);
            assert!(calls.borrow()[round - 1].1 - start >= ms(1));
        }
    });
}

/// An interval in microseconds is rounded up, not down.
#[test]
fn fractions_of_a_millisecond_are_not_cut_off() {
    on_every_backend(|lane| {
        let (mut world, calls) = timed_world(lane);
        for interval in [1001, 1999, 2500].map(Duration::from_micros) {
            let start = Instant::now();
            world.net.register_timer(interval, Repeat::Once, on_event, 0);
            let before = calls.borrow().len();
            world.turn_until("it", |_| calls.borrow().len() > before);
            assert!(calls.borrow()[before].1 - start >= interval, "{interval:?}");
        }
    });
}

/// A repeating timer fires in its rhythm until it is deleted, even by itself.
#[test]
fn a_repeating_timer_fires_until_it_is_deleted() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let calls = Calls::default();
        let written = Rc::clone(&calls);
        world.script(move |_, net, handle, event| {
            assert_eq!(handle, Handle::NONE);
            write_down(&written, event);
            if let Event::Timer { timer, .. } = event
                && written.borrow().len() == 5
            {
                net.delete_timer(*timer).unwrap();
                assert_eq!(net.delete_timer(*timer), Err(Stale));
            }
        });
        let start = Instant::now();
        let timer = world.net.register_timer(ms(2), Repeat::Forever, on_event, 7);
        world.turn_until("five calls", |_| calls.borrow().len() == 5);
        for (count, (_, called)) in (1..).zip(calls.borrow().iter()) {
            assert!(*called - start >= ms(2) * count, "call {count} came early");
        }
        assert_eq!(world.net.delete_timer(timer), Err(Stale));
        world.turn_for(ms(6));
        world.settle();
        assert_eq!(calls.borrow().len(), 5);
    });
}

/// What the callback itself takes is no part of the period.
#[test]
fn a_repeating_timer_keeps_its_rhythm() {
    const PERIOD: Duration = ms(10);
    on_every_backend(|lane| {
        // A busy machine may delay any call, but not every attempt.
        let is_in_rhythm = (0..10).any(|_| {
            let mut world = World::new(lane);
            let calls = Calls::default();
            let written = Rc::clone(&calls);
            world.script(move |_, _, _, event| {
                write_down(&written, event);
                thread::sleep(PERIOD / 2);
            });
            let start = Instant::now();
            world.net.register_timer(PERIOD, Repeat::Forever, on_event, 0);
            world.turn_until("eight calls", |_| calls.borrow().len() == 8);
            let last = calls.borrow()[7].1 - start;
            assert!(last >= PERIOD * 8);
            last < PERIOD * 10
        });
        assert!(is_in_rhythm, "the time in the callback was added to the period");
    });
}

/// After a stall of ten periods there is one call, not ten, and then the old rhythm.
#[test]
fn a_stall_is_followed_by_one_call_and_no_burst() {
    const PERIOD: Duration = ms(10);
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let calls = Calls::default();
        let written = Rc::clone(&calls);
        world.script(move |_, _, _, event| {
            write_down(&written, event);
            if written.borrow().len() == 2 {
                // The stall: this is what the test is about, and no waiting for anything.
                thread::sleep(PERIOD * 10);
            }
        });
        let start = Instant::now();
        world.net.register_timer(PERIOD, Repeat::Forever, on_event, 0);
        world.turn_until("five calls", |_| calls.borrow().len() == 5);
        let beat =
            |(_, called): &(u64, Instant)| (*called - start).as_millis() / PERIOD.as_millis();
        let beats: Vec<u128> = calls.borrow().iter().map(beat).collect();
        assert!(beats.windows(2).all(|pair| pair[0] < pair[1]), "two calls in a period: {beats:?}");
        assert!(beats[2] >= beats[1] + 10, "{beats:?}");
    });
}

/// A callback deletes another timer that is due in the same turn: it does not fire.
#[test]
fn a_deleted_timer_does_not_fire_in_the_same_turn() {
    on_every_backend(|lane| {
        for repeat in [Repeat::Once, Repeat::Forever] {
            let mut world = World::new(lane);
            let register =
                |world: &mut World, label| world.net.register_timer(ms(2), repeat, on_event, label);
            let mut timers = vec![register(&mut world, 1), register(&mut world, 2)];
            // Both are due when the turn comes.
            thread::sleep(ms(5));
            world.script(move |_, net, _, event| {
                let Event::Timer { timer, .. } = event else { panic!("{event:?}") };
                timers.retain(|other| other != timer);
                net.delete_timer(timers.pop().expect("the first of two")).unwrap();
                net.delete_timer(*timer).ok();
            });
            world.turn_until("one of them", |world| !world.app.log().is_empty());
            world.turn_for(ms(5));
            world.settle();
            assert_eq!(world.app.log(), [Entry::Timer]);
        }
    });
}

/// A timer that is set inside of a timer's callback comes later, and its identity is its own.
#[test]
fn a_timer_can_be_set_again_inside_its_callback() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        let calls = Calls::default();
        let written = Rc::clone(&calls);
        world.script(move |_, net, _, event| {
            write_down(&written, event);
            let Event::Timer { timer, user_data } = *event else { panic!("{event:?}") };
            assert_eq!(net.delete_timer(timer), Err(Stale), "it fired for the last time");
            if user_data < 5 {
                let next = net.register_timer(ms(1), Repeat::Once, on_event, user_data + 1);
                assert_ne!(next, timer);
            }
        });
        let start = Instant::now();
        world.net.register_timer(Duration::ZERO, Repeat::Once, on_event, 1);
        world.turn_until("five calls", |_| calls.borrow().len() == 5);
        for (count, (label, called)) in (1..).zip(calls.borrow().iter()) {
            assert_eq!(*label, u64::from(count));
            assert!(*called - start >= ms(1) * count);
        }
    });
}

/// Ten thousand timers, a third of them deleted: the others fire, once each and not early.
#[test]
fn ten_thousand_timers_fire_once_each() {
    const COUNT: u64 = 10_000;
    on_every_backend(|lane| {
        let (mut world, calls) = timed_world(lane);
        let start = Instant::now();
        // In no order, up to 40 ms.
        let interval = |label: u64| 1 + label * 7919 % 40;
        let timers: Vec<TimerId> = (0..COUNT)
            .map(|label| {
                world.net.register_timer(ms(interval(label)), Repeat::Once, on_event, label)
            })
            .collect();
        for timer in timers.iter().step_by(3) {
            world.net.delete_timer(*timer).unwrap();
        }
        let expected: Vec<u64> = (0..COUNT).filter(|label| label % 3 != 0).collect();
        world.turn_until("all of them", |_| calls.borrow().len() == expected.len());
        world.turn_for(ms(2));
        let mut fired: Vec<u64> = calls.borrow().iter().map(|(label, _)| *label).collect();
        for (label, called) in calls.borrow().iter() {
            assert!(*called - start >= ms(interval(*label)));
        }
        fired.sort_unstable();
        assert_eq!(fired, expected);
        assert!(timers.iter().all(|timer| world.net.delete_timer(*timer) == Err(Stale)));
    });
}

/// A timer for the end of time can be set, neither fires nor lets the loop spin, and is deleted.
#[test]
fn a_timer_can_be_as_good_as_never() {
    on_every_backend(|lane| {
        let (mut world, calls) = timed_world(lane);
        let far = [Duration::MAX, Duration::from_secs(u64::from(u32::MAX)), ms(86_400_000)];
        let timers = far.map(|far| world.net.register_timer(far, Repeat::Forever, on_event, 0));
        let start = Instant::now();
        let mut turns = 0;
        while start.elapsed() < ms(20) {
            world.turn_for(ms(20));
            turns += 1;
        }
        assert!(turns < 10, "{turns} turns in 20 ms with nothing to do");
        assert!(calls.borrow().is_empty());
        timers.into_iter().for_each(|timer| world.net.delete_timer(timer).unwrap());
    });
}

/// Sockets that are always busy do not hold up a timer.
#[test]
fn busy_sockets_do_not_hold_up_timers() {
    on_every_backend(|lane| {
        let mut world = World::new(lane);
        world.script(|_, net, handle, event| match event {
            Event::Confirm => drop(net.send(handle, &frame(1000, 1)).unwrap()),
            // For ever, between the two ends.
            Event::Pdu(pdu) => drop(net.send(handle, pdu.frame()).unwrap()),
            _ => {}
        });
        let (_, address) = world.listen();
        world.connect(address);
        world.turn_until("PDUs", |world| {
            world.app.count(|entry| matches!(entry, Entry::Pdu(_))) > 2
        });
        world.net.register_timer(ms(5), Repeat::Once, on_event, 3);
        let start = Instant::now();
        world.turn_until("the timer", |world| world.app.handles_by(3).len() == 1);
        assert!(start.elapsed() < ms(500), "{:?}", start.elapsed());
    });
}

/// With a clock that stands still, a day of timers takes no time: each is called when its time has
/// come and not before, however long is waited.
#[test]
fn a_manual_clock_decides_when_timers_are_due() {
    on_every_backend(|lane| {
        let clock = ManualClock::new();
        let mut world = World::with(lane.options().clock(&clock));
        world.net.register_timer(Duration::from_secs(3600), Repeat::Forever, on_event, 3);
        for hour in 0..24 {
            clock.advance(Duration::from_secs(3600) - ms(1));
            world.turn_for(ms(1));
            assert_eq!(world.app.count(|entry| *entry == Entry::Timer), hour);
            clock.advance(ms(1));
            // The alarm is due, so nothing is waited for.
            world.turn_for(DEADLINE);
            assert_eq!(world.app.count(|entry| *entry == Entry::Timer), hour + 1);
        }
    });
}

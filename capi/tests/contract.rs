//! What programs lean on, as programs in C that check it: each scenario is a process of its own,
//! on each backend. The rules stand above the functions of the same names in `tests/c`.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::sync::LazyLock;

use support::{Built, Language, backends, build};

/// A test program, compiled once for all its scenarios; `None` without a compiler.
type Suite = LazyLock<Option<Built>>;

static SOCKETS: Suite = LazyLock::new(|| build_c("tests/c/sockets.c"));
static TIMERS: Suite = LazyLock::new(|| build_c("tests/c/timers.c"));
static SIGNALS: Suite = LazyLock::new(|| build_c("tests/c/signals.c"));
static PRESSURE: Suite = LazyLock::new(|| build_c("tests/c/pressure.c"));
static THREADS: Suite = LazyLock::new(|| build_c("tests/c/threads.c"));
static COSTS: Suite = LazyLock::new(|| build_c("tests/c/costs.c"));
static MISUSE: Suite = LazyLock::new(|| build_c("tests/c/misuse.c"));

fn build_c(source: &str) -> Option<Built> {
    build(Language::C, source)
}

fn check(suite: &Suite, scenario: &str) {
    let Some(built) = &**suite else { return };
    for backend in backends() {
        let output = built.run(backend, &[scenario]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{scenario} on {backend}: {}: {told}", output.status);
    }
}

macro_rules! scenarios {
    ($suite:ident: $($name:ident),+ $(,)?) => {$(
        #[test]
        fn $name() {
            check(&$suite, stringify!($name));
        }
    )+};
}

scenarios! {
    SOCKETS:
    messages_come_once_and_in_order,
    close_right_after_send_flushes,
    recv_tells_would_block_from_the_end,
    recv_knows_the_end_after_the_last_byte,
    send_takes_what_fits_and_write_follows,
    read_comes_before_close,
    a_failed_connect_is_told_once,
    a_reset_is_told_by_errno,
    options_are_read_and_set,
    a_name_stays_what_it_was,
    listeners_answer_and_close,
    handles_are_unique_numbers,
    a_stop_leaves_nothing_unsent,
    destroy_leaves_nothing_unsent,
    a_byte_out_of_band_ends_nothing,
}

scenarios! {
    TIMERS:
    a_timer_beats_until_it_is_deleted,
    registering_again_updates,
    a_callback_deletes_another_timer,
    turns_are_told_in_order,
    the_loop_stops_and_starts_again,
    the_library_starts_again,
    everything_is_allowed_in_every_callback,
}

scenarios! {
    SIGNALS:
    a_handler_registers_a_timer_in_a_callback,
    a_handler_registers_a_timer_in_the_wait,
    a_handler_stops_the_loop,
    a_storm_of_signals_loses_nothing,
    a_handler_does_not_wait_for_what_it_interrupts,
    other_threads_may_only_ask,
    a_thread_registers_a_timer,
    a_thread_wakes_and_stops_the_loop,
    waking_may_outlast_the_library,
    a_refused_handler_is_followed_by_write,
    a_handler_allocates_nothing,
    a_signal_may_be_unblocked_after_the_start,
}

scenarios! {
    PRESSURE:
    the_total_limit_refuses_and_write_follows,
    a_thread_feels_a_slow_peer,
    a_thread_feels_what_is_unread,
    a_thread_feels_what_a_callback_has_sent,
    a_callback_sees_what_the_one_before_has_sent,
    sends_arrive_in_the_order_of_the_calls,
    a_thread_is_told_the_standing,
    a_long_send_takes_what_fits,
    a_close_flushes_what_a_thread_has_sent,
    a_close_does_not_wait_for_others,
}

scenarios! {
    THREADS:
    no_call_is_a_point_of_cancellation,
    the_loop_is_not_cancelled,
    the_loop_takes_the_library_over,
    a_hand_over_loses_no_timer,
    a_loop_begins_while_the_library_ends,
    a_timer_may_come_before_the_start,
    the_library_ends_with_its_thread,
}

/// Once it has run, the loop stays with its thread; another one is told so, on standard error once.
#[test]
fn the_loop_stays_where_it_has_run() {
    let Some(built) = &*THREADS else { return };
    for backend in backends() {
        let output = built.run(backend, &["the_loop_stays_where_it_has_run"]);
        assert!(output.status.success(), "{backend}: {output:?}");
        let told = "netlib: netlib_eventloop does nothing here, as another thread has run it\n";
        assert_eq!(String::from_utf8_lossy(&output.stderr), told);
    }
}

/// A loop that cannot run says so, on standard error once, also where the program has not asked.
#[test]
fn a_loop_that_cannot_run_says_so() {
    let Some(built) = &*MISUSE else { return };
    let output = built.run("auto", &["a_loop_that_cannot_run_says_so"]);
    assert!(output.status.success(), "{output:?}");
    let told = "netlib: netlib_eventloop cannot run: Invalid argument (os error 22)\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches(told).count(), 1, "{output:?}");
}

/// A thread that exits in a callback takes the process with it, as an exception does.
#[test]
fn a_thread_does_not_exit_in_a_callback() {
    let Some(built) = &*THREADS else { return };
    for backend in backends() {
        let output = built.run(backend, &["a_thread_does_not_exit_in_a_callback"]);
        assert_eq!(output.status.signal(), Some(6), "{output:?}");
        let told = "netlib: an exception left a callback; the process ends\n";
        assert_eq!(String::from_utf8_lossy(&output.stderr), told);
    }
}

scenarios! {
    MISUSE:
    unknown_handles_are_refused,
    null_and_negative_are_refused,
    a_c_program_has_no_string,
    limits_are_chosen_before_the_start,
    a_bad_environment_is_told,
}

scenarios! {
    COSTS:
    an_echo_allocates_nothing,
}

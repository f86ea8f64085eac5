//! A timing wheel does what a sorted map does, see `src/reactor/timer/model.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| uring_netlib::fuzzing::timers(bytes));

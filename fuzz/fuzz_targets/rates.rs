//! Token buckets do what plain arithmetic does, see `src/reactor/meter/model.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| uring_netlib::fuzzing::rates(bytes));

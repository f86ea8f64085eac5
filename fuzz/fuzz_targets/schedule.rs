//! Whatever a network does to a server and its clients, every rule of the simulated workload
//! holds: the bytes are the network's decisions, and the programs'.
//!
//! `cargo run --release --features sim --example simulate -- --decisions FILE --trace` tells what
//! happens with an input.

#![no_main]

#[path = "../../examples/simulate/oracle.rs"]
mod oracle;
#[path = "../../examples/simulate/programs.rs"]
mod programs;
#[path = "../../examples/simulate/workload.rs"]
#[expect(dead_code, reason = "seeds are for the example and the tests")]
mod workload;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(breach) = workload::run_world(workload::World::from_decisions(bytes)) {
        panic!("after {:?}: {}", breach.at, breach.text);
    }
});

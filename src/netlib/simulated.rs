//! What a simulation asks of a `Netlib` that it lets run.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::Netlib;
use crate::driver::Auto;

impl<A> Netlib<A> {
    /// In how long its next turn has something to do: zero for at once, `None` for not before
    /// something arrives, or not at all because its host is paused or gone. Only for a `Netlib`
    /// of a simulated network, see [`Options::sim`](crate::Options::sim); of another it is zero.
    pub fn due(&self) -> Option<Duration> {
        match &self.driver {
            Auto::Sim(driver) => driver.due(|| self.wait_limit(Duration::MAX)),
            Auto::Uring(_) | Auto::Epoll(_) => Some(Duration::ZERO),
        }
    }
}

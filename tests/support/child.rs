//! Children of a test: this very program, started again for one test with `NETLIB_TEST_CHILD` set.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::lanes;

/// Tells a child which role it has.
pub const CHILD: &str = "NETLIB_TEST_CHILD";

/// A child that ends with the test, however that ends.
pub struct Guard(Child);

impl Guard {
    /// Starts this program again for the test of that name.
    pub fn start(
        test: &str,
        role: &str,
    ) -> (Self, ChildStdin, impl Iterator<Item = String> + use<>) {
        let mut child = Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, role)
            .env_remove("NETLIB_BACKEND")
            .env_remove("NETLIB_URING_MASK")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        (Self(child), stdin, lines)
    }

    pub fn expect_success(mut self) {
        assert!(self.0.wait().unwrap().success(), "the child failed; its output is above");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What comes after a mark on a line of a child's output.
pub fn marked(lines: &mut impl Iterator<Item = String>, mark: &str) -> String {
    let found = lines.find_map(|line| line.split_once(mark).map(|(_, rest)| rest.to_owned()));
    found.unwrap_or_else(|| panic!("the child ended without {mark:?}"))
}

/// The backends to be tested, without their masks.
pub fn backends() -> Vec<String> {
    let plain = lanes().into_iter().filter(|lane| lane.mask.is_empty());
    plain.map(|lane| lane.backend.to_string()).collect()
}

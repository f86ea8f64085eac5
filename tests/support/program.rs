//! Examples as processes, and what they print. The tests of `examples/im` have this file as well.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, thread};

/// How long any one line of a program may take, and its end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running example that ends with the test, however that ends.
pub struct Program {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

/// What an example left behind.
#[derive(Debug)]
pub struct Ending {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        Self::start_with(name, arguments, &[])
    }

    /// Starts the program at a path, which need not be an example of the library.
    pub fn start_at(path: impl AsRef<OsStr>, arguments: &[&str]) -> Self {
        Self::start_at_with(path, arguments, &[])
    }

    pub fn start_at_with(
        path: impl AsRef<OsStr>,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        Self::spawn(Command::new(path).args(arguments), variables)
    }

    pub fn start_with(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(path_of(name));
        Self::spawn(command.args(arguments), variables)
    }

    /// Starts a program behind what a shell does first, e.g. to its limits or its output.
    pub fn start_behind(prelude: &str, name: &str, arguments: &[&str]) -> Self {
        let script = format!("{prelude}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        Self::spawn(command.args(["-c", &script]).arg(path_of(name)).args(arguments), &[])
    }

    fn spawn(command: &mut Command, variables: &[(&str, &str)]) -> Self {
        let mut child = command
            .env_remove("NETLIB_BACKEND")
            .env_remove("NETLIB_URING_MASK")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    pub fn line(&self) -> String {
        self.stdout.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            panic!("no line: {error}; {:?}", self.stderr.try_iter().collect::<Vec<_>>())
        })
    }

    /// The rest of the next line, which has to start so.
    #[track_caller]
    pub fn line_after(&self, start: &str) -> String {
        let line = self.line();
        line.strip_prefix(start).unwrap_or_else(|| panic!("{start:?}, not {line:?}")).to_owned()
    }

    /// The rest of the first line that starts so, whatever comes before it.
    pub fn wait_for(&self, start: &str) -> String {
        // One that goes on telling of other things is waited for no longer than a silent one.
        let end = Instant::now() + PATIENCE;
        loop {
            let line = self.line();
            if let Some(rest) = line.strip_prefix(start) {
                return rest.to_owned();
            }
            assert!(Instant::now() < end, "no {start:?}, but {line:?}");
        }
    }

    /// A line on its standard input.
    pub fn type_line(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line of standard error.
    pub fn complaint(&self) -> String {
        self.stderr.recv_timeout(PATIENCE).expect("a line on standard error")
    }

    /// The standard library sends no signals but SIGKILL; every shell does.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }

    /// Waits for the end of one that does not wait for the end of its input; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "the program does not end");
            thread::yield_now();
        }
    }

    /// Waits for the end, which closes both pipes. Nothing more is typed.
    pub fn finish(mut self) -> Ending {
        drop(self.child.stdin.take());
        let (stdout, stderr) = (rest(&self.stdout), rest(&self.stderr));
        Ending { code: self.child.wait().unwrap().code(), stdout, stderr }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cargo puts examples next to the directory of this test.
fn path_of(example: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples").join(example);
    assert!(path.exists(), "{} is missing: type `cargo build --examples` first", path.display());
    path
}

/// The lines of a pipe, read by a thread so that waiting for one can have a limit.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn rest(lines: &Receiver<String>) -> String {
    let (mut text, start) = (String::new(), Instant::now());
    loop {
        match lines.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
            Ok(line) => text = text + &line + "\n",
            Err(RecvTimeoutError::Disconnected) => return text,
            Err(RecvTimeoutError::Timeout) => panic!("the program does not end; so far: {text}"),
        }
    }
}

//! Compiles C and C++ against the header and the archive, and runs what comes out.
//!
//! A machine without a compiler skips these tests, and says so.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every binary has it, none uses all of it"
)]

#[path = "../../../tests/support/program.rs"]
mod program;

use std::env;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub use program::{PATIENCE, Program};

/// Which compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    C,
    Cxx,
}

/// An executable.
pub struct Built(PathBuf);

impl Built {
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Runs it to its end, on a backend.
    pub fn run(&self, backend: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.0);
        command.args(arguments).env("NETLIB_BACKEND", backend).env_remove("NETLIB_URING_MASK");
        command.output().expect("it was just built")
    }
}

/// Compiles a file of this package, with all warnings as errors, and links the archive.
/// `None` where there is no compiler.
pub fn build(language: Language, source: &str) -> Option<Built> {
    build_against(language, source, &[&archive()])
}

/// The same, with those archives.
pub fn build_against(language: Language, source: &str, archives: &[&Path]) -> Option<Built> {
    let (compiler, standard) = match language {
        Language::C => ("cc", "-std=c11"),
        Language::Cxx => ("c++", "-std=c++11"),
    };
    if !has_command(compiler) {
        println!("SKIPPED: there is no {compiler}");
        return None;
    }
    let name = Path::new(source).file_name().expect("a file").to_string_lossy();
    let name = format!("{}-{name}.out", env!("CARGO_CRATE_NAME"));
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(compiler);
    command
        .args([standard, "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror"])
        // What people start from is to pass whatever they compile with.
        .args(source.starts_with("examples/").then_some("-pedantic"))
        // A lane with a sanitizer has the programs sanitized as well.
        .args(env::var("NETLIB_CAPI_CFLAGS").unwrap_or_default().split_whitespace())
        .arg("-I")
        .arg(root.join("include"))
        .arg(root.join(source))
        .args(archives)
        // What the standard library of Rust needs on Linux; README says the same.
        .args(["-lpthread", "-ldl", "-lm", "-o"])
        .arg(&path);
    let output = command.output().expect("it told its version");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
    Some(Built(path))
}

pub fn has_command(name: &str) -> bool {
    Command::new(name).arg("--version").output().is_ok()
}

pub fn archive() -> PathBuf {
    artifact("libnetlib.a")
}

pub fn shared_library() -> PathBuf {
    artifact("libnetlib.so")
}

/// Cargo puts them beside the tests of this package, for which they were built.
fn artifact(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let path = test.parent().unwrap().join(name);
    assert!(path.exists(), "{} is missing", path.display());
    path
}

/// The backends that are to be tested here.
pub fn backends() -> Vec<&'static str> {
    match env::var("NETLIB_BACKEND").as_deref() {
        Ok("uring") => vec!["uring"],
        Ok("epoll") => vec!["epoll"],
        _ if has_uring() => vec!["uring", "epoll"],
        _ => vec!["epoll"],
    }
}

fn has_uring() -> bool {
    let options = uring_netlib::Options::new().backend(uring_netlib::Backend::Uring);
    options.build::<()>().is_ok()
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

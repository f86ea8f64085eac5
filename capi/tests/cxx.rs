//! What concerns C++: strings, and exceptions.

mod support;

use std::os::unix::process::ExitStatusExt;

use support::{Language, backends, build, free_port};

/// Options write a `std::string` for a program that has this library's header, and for one that
/// was compiled for the original and has only been linked anew.
#[test]
fn options_write_a_string() {
    for source in ["tests/c/strings.cpp", "tests/c/relinked.cpp"] {
        let Some(built) = build(Language::Cxx, source) else { return };
        for backend in backends() {
            let output = built.run(backend, &[&free_port().to_string()]);
            assert!(output.status.success(), "{source} on {backend}: {output:?}");
        }
    }
}

/// An exception that leaves a callback ends the process with a message, and reaches nobody.
#[test]
fn an_exception_ends_the_process() {
    let Some(built) = build(Language::Cxx, "tests/c/throwing.cpp") else { return };
    for backend in backends() {
        let output = built.run(backend, &[]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(6), "{output:?}");
        assert_eq!(told, "netlib: an exception left a callback; the process ends\n");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "unwound\n");
    }
}

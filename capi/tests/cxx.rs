//! What concerns C++: strings, and exceptions.

mod support;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Language, backends, build, free_port, has_command};

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

/// A program with another `std::string` is compiled as long as it does not ask for one, and told
/// what to use instead where it does.
#[test]
fn another_string_is_refused_where_it_is_asked_for() {
    if !has_command("c++") {
        return println!("SKIPPED: there is no c++");
    }
    let compile = |option: &str| {
        let source = format!("#include <netlib.h>\nint chosen() {{ return {option}; }}\n");
        let mut compiler = Command::new("c++");
        compiler.args(["-std=c++11", "-D_GLIBCXX_USE_CXX11_ABI=0", "-fsyntax-only", "-I"]);
        compiler.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"));
        compiler.args(["-x", "c++", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = compiler.spawn().unwrap();
        child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    assert!(compile("NETLIB_OPT_GET_REMOTE_PORT").status.success());
    let refused = compile("NETLIB_OPT_GET_REMOTE_IP");
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("use_netlib_ex_remote_ip"), "{told}");
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

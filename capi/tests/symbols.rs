//! What the archive and the shared library export: the functions of the header, and nothing else;
//! and that the header declares what the original does.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use support::{archive, has_command, shared_library};

/// The functions that the header declares.
fn declared() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/netlib.h");
    let header = fs::read_to_string(path).unwrap();
    let lines = header.lines().filter(|line| !line.starts_with([' ', '/', '#']));
    let names = lines.filter_map(|line| {
        let (before, _) = line.split_once('(')?;
        let name = before.split([' ', '*']).next_back()?;
        name.starts_with("netlib_").then(|| name.to_owned())
    });
    names.collect()
}

/// The symbols that a file defines for others; `None` without `nm`.
fn exported(file: &Path, options: &[&str]) -> Option<BTreeSet<String>> {
    let mut command = Command::new("nm");
    let Ok(output) = command.args(options).args(["--defined-only", "-g"]).arg(file).output() else {
        println!("SKIPPED: there is no nm");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    // An address, a letter and a name; other lines tell what file it is.
    let names =
        text.lines().filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, kind, name] if kind.len() == 1 => Some(name),
            _ => None,
        });
    Some(names.map(|name| name.split('@').next().unwrap_or(name).to_owned()).collect())
}

/// The shared library exports exactly what the header declares.
#[test]
fn the_shared_library_exports_what_the_header_declares() {
    let declared = declared();
    assert_eq!(declared.len(), 14 + 7, "{declared:?}");
    if let Some(exported) = exported(&shared_library(), &["-D"]) {
        assert_eq!(exported, declared);
    }
}

/// So does the archive, beside names that no program may have: Rust's own, and those of the
/// compiler's runtime.
#[test]
fn the_archive_exports_what_the_header_declares() {
    if let Some(exported) = exported(&archive(), &[]) {
        let is_reserved = |name: &String| {
            let starts = ["__", "_ZN", "_R", "DW.ref.__", "DW.ref.rust_", "rust_"];
            starts.iter().any(|start| name.starts_with(start))
        };
        let own = exported.into_iter().filter(|name| !is_reserved(name));
        assert_eq!(own.collect::<BTreeSet<_>>(), declared());
    }
}

/// A program in C that links the archive does not need the C++ library.
#[test]
fn the_archive_needs_no_cxx_library() {
    let mut command = Command::new("nm");
    let Ok(output) = command.args(["--undefined-only", "-g"]).arg(archive()).output() else {
        println!("SKIPPED: there is no nm");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let strong = text.lines().filter(|line| line.contains("_ZNSt") && !line.contains(" w "));
    assert_eq!(strong.collect::<Vec<_>>(), [""; 0]);
    assert!(text.contains(" w _ZNSt7__cxx1112basic_string"), "it looks for the string");
}

/// The header declares the original's functions and numbers, and is plain C and C++ of any standard
/// that is in use.
#[test]
fn the_header_is_plain_c_and_cxx() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compilers = [
        ("gcc", "c", &["c11", "c17", "gnu11"][..]),
        ("clang", "c", &["c11"]),
        ("g++", "c++", &["c++11", "c++14", "c++17", "c++20", "gnu++11"]),
        ("clang++", "c++", &["c++11"]),
    ];
    for (compiler, language, standards) in compilers {
        if !has_command(compiler) {
            println!("SKIPPED: there is no {compiler}");
            continue;
        }
        for standard in standards {
            let mut command = Command::new(compiler);
            command.arg(format!("-std={standard}")).args([
                "-Wall",
                "-Wextra",
                "-pedantic",
                "-Werror",
            ]);
            command
                .args(["-Wshadow", "-Wconversion", "-fsyntax-only", "-I"])
                .arg(root.join("include"));
            command.args(["-x", language]).arg(root.join("tests/c/header.h"));
            let output = command.output().unwrap();
            assert!(output.status.success(), "{command:?}: {output:?}");
        }
    }
}

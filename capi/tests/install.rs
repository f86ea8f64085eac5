//! The way of README: installing, pkg-config, and an archive in front of another netlib.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Language, archive, backends, build_against, free_port, has_command};

/// A program built by what pkg-config says finds header and library where they were installed.
#[test]
fn a_program_is_built_by_what_pkg_config_says() {
    if !has_command("pkg-config") || !has_command("cc") {
        return println!("SKIPPED: there is no pkg-config, or no cc");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("install");
    let artifacts = archive().parent().unwrap().to_owned();
    let status = Command::new(root.join("install"))
        .arg("--from")
        .arg(artifacts)
        .arg(&prefix)
        .output()
        .unwrap();
    assert!(status.status.success(), "{status:?}");
    // Running takes the name with the version, and not the one for linking.
    let script = "cc $NETLIB_CAPI_CFLAGS -std=c11 -D_GNU_SOURCE tests/c/misuse.c \
                  $(pkg-config --cflags --libs netlib) -Wl,-rpath,\"$PREFIX/lib\" \
                  -o \"$PREFIX/misuse\" && \
                  rm \"$PREFIX/lib/libnetlib.so\" && \
                  \"$PREFIX/misuse\" null_and_negative_are_refused";
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(root)
        .env("PREFIX", &prefix)
        // Cargo's own has the library as well.
        .env_remove("LD_LIBRARY_PATH")
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::remove_dir_all(prefix).unwrap();
}

/// What it does not know it does not take for a folder, and answers with its usage.
#[test]
fn an_unknown_option_is_answered_with_the_usage() {
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("install");
    for arguments in [&["--help"][..], &["-h"], &["--from", "no/folder", "--prefix=here"], &[]] {
        let output = Command::new(&install).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert!(output.stderr.starts_with(b"usage: capi/install "), "{output:?}");
    }
}

/// In front of an archive with another netlib, this one takes its place.
#[test]
fn the_archive_takes_the_place_of_one_behind_it() {
    if !has_command("c++") || !has_command("ar") {
        return println!("SKIPPED: there is no c++, or no ar");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (object, other) = (folder.join("other.o"), folder.join("libother.a"));
    let source = root.join("benches/epoll_netlib.cpp");
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++11", "-c", "-I"]).arg(root.join("include")).arg(source);
    assert!(compiler.arg("-o").arg(&object).status().unwrap().success());
    fs::remove_file(&other).ok();
    assert!(Command::new("ar").arg("rc").arg(&other).arg(&object).status().unwrap().success());
    let source = "tests/c/relinked.cpp";
    let Some(built) = build_against(Language::Cxx, source, &[&archive(), &other]) else { return };
    for backend in backends() {
        // The other one has neither a local address nor half of the functions.
        let output = built.run(backend, &[&free_port().to_string()]);
        assert!(output.status.success(), "{output:?}");
    }
}

//! Rules of style that a machine can check; CONTRIBUTING.md lists them.

use std::fs;
use std::path::{Path, PathBuf};

struct Source {
    path: PathBuf,
    text: String,
}

/// Every Rust file of the project, and none that a build has made.
fn sources() -> Vec<Source> {
    let sources = sources_in(&["rs"]);
    assert!(sources.len() > 30, "the files were found");
    sources
}

/// Every file in C and C++.
fn c_sources() -> Vec<Source> {
    sources_in(&["c", "cpp", "h", "hpp"])
}

fn sources_in(extensions: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The last two are packages of their own, which are not part of the library's.
    let folders = ["src", "fallback", "tests", "examples", "benches", "fuzz/fuzz_targets", "capi"];
    let folders = folders.map(|name| root.join(name));
    let mut folders: Vec<PathBuf> = folders.into_iter().filter(|folder| folder.exists()).collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
                continue;
            }
            let extension = path.extension().unwrap_or_default();
            if extensions.iter().any(|wanted| extension == *wanted) {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root).unwrap().to_owned();
                sources.push(Source { path, text });
            }
        }
    }
    sources
}

/// Fails with every place where a rule is broken.
fn expect_none(rule: &str, broken: impl Iterator<Item = String>) {
    let broken: Vec<String> = broken.collect();
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

/// A file says in its first line what it is.
#[test]
fn every_file_has_a_header() {
    let rust = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    let c = c_sources().into_iter();
    let c = c.filter(|source| !["/*", "// "].iter().any(|start| source.text.starts_with(start)));
    let broken = rust.chain(c);
    expect_none("files without a header", broken.map(|source| source.path.display().to_string()));
}

/// Files stay at 600 lines, lines at 100 columns.
#[test]
fn files_and_lines_stay_short() {
    let long = |source: &Source| {
        let path = source.path.display();
        let lines = source.text.lines().count();
        let file = (lines > 600).then(|| format!("{path}: {lines} lines"));
        let wide = source.text.lines().enumerate().filter(|(_, line)| line.chars().count() > 100);
        let wide = wide.map(|(at, _)| format!("{path}:{}: over 100 columns", at + 1));
        file.into_iter().chain(wide).collect::<Vec<_>>()
    };
    expect_none("too long", sources().iter().chain(&c_sources()).flat_map(long));
}

/// Functions stay at 70 lines. Formatted code closes one at the column where it opened it.
#[test]
fn functions_stay_short() {
    let mut broken = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let words = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "const fn "];
            if !words.iter().any(|word| code.starts_with(word)) {
                continue;
            }
            let close = format!("{}}}", &line[..line.len() - code.len()]);
            let end = lines[at..].iter().position(|line| **line == close);
            if end.is_some_and(|length| length >= 70) {
                broken.push(format!("{}:{}", source.path.display(), at + 1));
            }
        }
    }
    expect_none("functions over 70 lines", broken.into_iter());
}

/// So do those in C and C++, whose braces stand in lines of their own.
#[test]
fn c_functions_stay_short() {
    let mut broken = Vec::new();
    for source in c_sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.trim_start() == "{") {
            let close = line.replace('{', "}");
            let end = lines[at..].iter().position(|line| **line == close);
            if end.is_some_and(|length| length >= 70) {
                broken.push(format!("{}:{}", source.path.display(), at + 1));
            }
        }
    }
    expect_none("functions over 70 lines", broken.into_iter());
}

/// `unsafe` stands in five files of the library, four of its C surface, and no other; the crates
/// deny it by themselves, and this says which files may allow it.
#[test]
fn unsafe_code_stays_in_its_files() {
    let allowed = [
        "src/driver/uring/mod.rs",
        "src/driver/buf_ring.rs",
        "src/driver/pool.rs",
        "src/sys.rs",
        "fallback/epoll.rs",
        "capi/src/calls.rs",
        "capi/src/extra.rs",
        "capi/src/foreign.rs",
        "capi/src/lend.rs",
    ];
    let broken = sources().into_iter().filter(|source| {
        let may = allowed.iter().any(|path| source.path == Path::new(path));
        is_library(&source.path)
            && !may
            && UNSAFE_ALLOWED.iter().any(|attribute| source.text.contains(attribute))
    });
    expect_none("unsafe is not for", broken.map(|source| source.path.display().to_string()));
}

/// The inventory of `unsafe` lists every function that has some, with how many blocks.
#[test]
fn the_inventory_of_unsafe_code_is_complete() {
    let mut found = Vec::new();
    for source in sources() {
        let path = source.path.display().to_string();
        if !is_library(&source.path) {
            continue;
        }
        let mut blocks: Vec<(&str, u32)> = Vec::new();
        let mut function = "";
        for line in source.text.lines().map(code) {
            function = name_of_function(line).unwrap_or(function);
            if !line.contains("unsafe {")
                && !line.contains("unsafe fn")
                && !line.contains("unsafe impl")
            {
                continue;
            }
            match blocks.iter_mut().find(|(name, _)| *name == function) {
                Some((_, count)) => *count += 1,
                None => blocks.push((function, 1)),
            }
        }
        found.extend(blocks.iter().map(|(name, count)| format!("`{path}` | `{name}` | {count}")));
    }
    let text = document("UNSAFE.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let has_capi = found.iter().any(|row| row.starts_with("`capi/"));
    let rows = rows.filter(|row| has_capi || !row.starts_with("capi/"));
    let mut listed: Vec<String> = rows
        .map(|row| format!("`{}", row.split(" | ").take(3).collect::<Vec<_>>().join(" | ")))
        .collect();
    found.sort();
    listed.sort();
    assert!(!found.is_empty(), "there is some");
    assert_eq!(listed, found);
}

/// What the documents say a test shows is shown by a test: `file::test` in them names one.
#[test]
fn tests_that_documents_name_exist() {
    let sources = sources();
    let mut named = 0;
    for document_name in ["UNSAFE.md", "RELIABILITY.md"] {
        let text = document(document_name);
        let quoted = text.split('`').skip(1).step_by(2);
        let tests = quoted.filter_map(|word| word.split_once("::"));
        let tests = tests.filter(|(file, _)| file.starts_with(|first: char| first.is_lowercase()));
        let broken = tests.inspect(|_| named += 1).filter(|(file, test)| {
            let is_there = |source: &Source| {
                // A module's file, or the one that has its folder's name.
                let path = source.path.with_extension("");
                let stem = if path.ends_with("mod") { path.parent() } else { Some(&*path) };
                stem.is_some_and(|stem| stem.ends_with(file)) && has_test(&source.text, test)
            };
            !sources.iter().any(is_there)
        });
        let broken: Vec<String> = broken.map(|(file, test)| format!("{file}::{test}")).collect();
        expect_none(document_name, broken.into_iter());
    }
    assert!(named > 50, "{named} tests are named");
}

/// How a file may allow `unsafe`; put together, so as not to be found here.
const UNSAFE_ALLOWED: [&str; 2] =
    [concat!("allow(", "unsafe_code"), concat!("expect(", "unsafe_code")];

/// Whether a function of that name is a test: that is said in the lines right above it.
fn has_test(text: &str, name: &str) -> bool {
    let start = format!("fn {name}(");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let Some(at) = lines.iter().position(|line| line.starts_with(&start)) else { return false };
    lines[at.saturating_sub(3)..at].contains(&"#[test]")
}

/// Whether a file is the library's, or its C surface's.
fn is_library(path: &Path) -> bool {
    ["src", "fallback", "capi/src"].iter().any(|folder| path.starts_with(folder))
}

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// A line without what is only said in it.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

fn name_of_function(line: &str) -> Option<&str> {
    let rest = line.split_once("fn ")?.1;
    Some(
        rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .next()
            .unwrap_or(rest),
    )
}

/// How the clock is read.
const READS: [&str; 2] = ["Instant::now", "sys::monotonic_nanos"];

/// The clock is read in one place (I7). The resolver's limit is for its own threads, and the
/// driver's tests measure.
#[test]
fn the_clock_is_read_in_one_place() {
    let readers =
        ["src/clock.rs", "src/resolver.rs", "src/driver/conformance", "src/driver/sim/peer.rs"];
    let broken = sources().into_iter().filter(|source| {
        let may = readers.iter().any(|path| source.path.starts_with(path));
        is_library(&source.path) && !may && READS.iter().any(|read| source.text.contains(read))
    });
    expect_none("reads the clock", broken.map(|source| source.path.display().to_string()));
}

/// Nothing unfinished is left behind.
#[test]
fn nothing_unfinished_is_left() {
    let leftovers = ["TODO", "FIXME", "XXX", "HACK", "todo!(", "unimplemented!(", "dbg!("];
    let broken = sources().into_iter().filter(|source| {
        !source.path.ends_with("tidy.rs") && leftovers.iter().any(|left| source.text.contains(left))
    });
    expect_none("leftovers", broken.map(|source| source.path.display().to_string()));
}

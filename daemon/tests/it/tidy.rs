//! House rules as tests: dependencies between modules, the place of SQL, the heads of files, names
//! of tests, and forbidden words.

use std::path::{Path, PathBuf};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn files(folder: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(ROOT).join(folder)];
    while let Some(current) = folders.pop() {
        for entry in std::fs::read_dir(&current).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(ROOT).unwrap().to_path_buf(), text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no .{extension} files");
    found
}

/// Returns the program part of a file, without `#[cfg(test)]` items.
fn program(text: &str) -> String {
    let mut program = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            program.push_str(line);
            program.push('\n');
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        // In formatted code the last line of an item is the first closing line at its indentation.
        let ends = |line: &&str| {
            line.len() - line.trim_start().len() == indent && line.ends_with([';', '}', ','])
        };
        lines.by_ref().find(ends);
    }
    program
}

#[test]
fn only_what_tests_have_is_left_out_of_the_program() {
    let text = "use a;\n#[cfg(test)]\nmod fixtures;\nfn b() {\n    c();\n}\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn d() {}\n}\n\
                impl E {\n    #[cfg(test)]\n    fn f() {\n        g();\n    }\n\n    fn h() {}\n}\n";
    assert_eq!(
        program(text),
        "use a;\nfn b() {\n    c();\n}\nimpl E {\n\n    fn h() {}\n}\n"
    );
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.ends_with("tests.rs")
        || path.ends_with("hostile.rs")
}

#[test]
fn every_source_file_opens_with_what_it_is_for() {
    for folder in [
        "daemon/src",
        "daemon/bench",
        "daemon/mqtt",
        "daemon/pictures",
        "daemon/tests/it",
        "models/src",
        "models/kernels",
        "models/tests",
        "models/benches",
    ] {
        for (path, text) in files(folder, "rs") {
            assert!(
                text.starts_with("//! "),
                "{} does not open with //!",
                path.display()
            );
        }
    }
}

#[test]
fn sql_stands_only_in_the_store() {
    for (path, text) in files("daemon/src", "rs") {
        if path.starts_with("daemon/src/store") || is_test(&path) {
            continue;
        }
        for word in [
            "SELECT ",
            "INSERT ",
            "UPDATE ",
            "DELETE FROM",
            "CREATE TABLE",
        ] {
            assert!(
                !program(&text).contains(word),
                "{} contains {word}",
                path.display()
            );
        }
    }
}

#[test]
fn the_arrows_of_the_design_hold() {
    // Each module, and the others that it may not name.
    let forbidden = [
        (
            "sources",
            "engine_process pipeline people api sinks web::page kith_pictures::decode",
        ),
        (
            "queue",
            "sources engines people pipeline engine_process sinks api web kith_mqtt kith_pictures::decode",
        ),
        (
            "store",
            "queue sources engines people pipeline engine_process sinks api web kith_pictures::decode",
        ),
        (
            "engine_process",
            "store queue sources engines people pipeline sinks api web",
        ),
        (
            "camera_process",
            "store queue sources engines people pipeline sinks api web",
        ),
        (
            "fleet",
            "queue sources pipeline engine_process sinks api web kith_pictures::decode",
        ),
        ("engines", "sources people pipeline sinks api web kith_mqtt"),
        ("people", "sources pipeline sinks api web kith_mqtt"),
        ("pipeline", "sources sinks api web kith_mqtt"),
        (
            "sinks",
            "queue people pipeline engine_process api web kith_pictures::decode",
        ),
        (
            "web",
            "queue sources pipeline engine_process sinks kith_pictures::decode",
        ),
        (
            "api",
            "web sinks engine_process kith_mqtt kith_pictures::decode",
        ),
        ("status", "sources engines people pipeline sinks api web"),
        (
            "http_server",
            "store queue sources engines people pipeline api web",
        ),
    ];
    for (module, names) in forbidden {
        for (path, text) in files(&format!("daemon/src/{module}"), "rs") {
            for name in names.split(' ') {
                let name = match name {
                    other if other.starts_with("kith_") => other.to_owned(),
                    ours => format!("crate::{ours}"),
                };
                assert!(
                    !program(&text).contains(&name),
                    "{} may not know {name}",
                    path.display()
                );
            }
        }
    }
    for (path, text) in files("daemon/src/sources", "rs") {
        let words_only = program(&text)
            .split("crate::camera_process::")
            .skip(1)
            .all(|rest| rest.starts_with("wire"));
        assert!(
            words_only,
            "{} may know of crate::camera_process only its words",
            path.display()
        );
    }
    for (path, text) in files("daemon/src", "rs") {
        if !path.starts_with("daemon/src/cli") && !path.ends_with("cli.rs") {
            assert!(
                !program(&text).contains("crate::app"),
                "{} may not know app",
                path.display()
            );
        }
    }
}

#[test]
fn only_the_runtime_names_tract() {
    for (path, text) in files("models/src", "rs")
        .into_iter()
        .chain(files("daemon/src", "rs"))
    {
        if !path.ends_with("models/src/runtime.rs") && !path.starts_with("models/src/runtime") {
            for name in ["tract_onnx", "tract_cuda"] {
                assert!(
                    !program(&text).contains(name),
                    "{} names {name}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn every_crate_but_the_kernels_forbids_unsafe_code() {
    let workspace = std::fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let members = workspace
        .lines()
        .find_map(|line| line.strip_prefix("members = ["));
    for member in members
        .unwrap()
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|member| *member != "models/kernels")
    {
        let source = Path::new(ROOT).join(member).join("src");
        let roots = ["lib.rs", "main.rs"].map(|name| std::fs::read_to_string(source.join(name)));
        for text in roots.into_iter().flatten() {
            assert!(
                text.contains("\n#![forbid(unsafe_code)]\n"),
                "{member} does not forbid unsafe code"
            );
        }
    }
}

#[test]
fn main_stays_short_and_nothing_is_left_unfinished() {
    for (path, text) in files("daemon", "rs")
        .into_iter()
        .chain(files("models", "rs"))
    {
        if path.ends_with("daemon/src/main.rs") || path.ends_with("daemon/src/lib.rs") {
            assert!(
                text.lines().count() < 80,
                "{} is {} lines long",
                path.display(),
                text.lines().count()
            );
        }
        if path.ends_with("tidy.rs") {
            continue;
        }
        for mark in ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "XXX"] {
            assert!(!text.contains(mark), "{} contains {mark}", path.display());
        }
        assert!(
            !text.contains("/work/"),
            "{} names a path of one machine",
            path.display()
        );
    }
}

/// Returns the names of a file's tests: each `fn` behind a `#[test]` or `#[tokio::test]`.
fn test_names(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            let name = lines.by_ref().find_map(|line| {
                let (_, rest) = line.split_once("fn ")?;
                rest.split_once('(').map(|(name, _)| name)
            });
            names.extend(name);
        }
    }
    names
}

#[test]
fn names_of_tests_are_sentences_of_at_most_60_characters() {
    let mut count = 0;
    for (path, text) in files("daemon", "rs")
        .into_iter()
        .chain(files("models", "rs"))
    {
        for name in test_names(&text) {
            count += 1;
            assert!(
                name.len() <= 60,
                "{}: {name} has {} characters; the rest of the sentence belongs into an assert or a doc comment",
                path.display(),
                name.len()
            );
        }
    }
    assert!(count > 800, "only {count} tests were found");
}

#[test]
fn every_migration_is_built_in_and_numbered_without_gaps() {
    let mut names: Vec<_> = files("migrations", "sql")
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    names.sort();
    let migrate =
        std::fs::read_to_string(Path::new(ROOT).join("daemon/src/store/migrate.rs")).unwrap();
    for (number, path) in (1..).zip(names) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            name.starts_with(&format!("{number:04}-")),
            "{name} is out of order"
        );
        assert!(migrate.contains(name), "{name} is not built in");
    }
}

#[test]
fn comments_begin_with_their_subject_in_plain_words() {
    const HEADLESS: [&str; 10] = [
        "What", "Who", "One", "Those", "Of", "As", "Where", "How", "Whether", "Which",
    ];
    const VAGUE: [&str; 3] = ["somebody", "whoever", "whom"];
    let (mut blocks, mut headless) = (0, Vec::new());
    for (path, text) in files("daemon", "rs")
        .into_iter()
        .chain(files("models", "rs"))
    {
        let mut inside = false;
        for (number, line) in (1..).zip(text.lines()) {
            let Some(comment) = line.trim_start().strip_prefix("//") else {
                inside = false;
                continue;
            };
            let place = || format!("{}:{number}: {}", path.display(), line.trim());
            let mut words = comment
                .split(|letter: char| !letter.is_alphanumeric())
                .filter(|word| !word.is_empty());
            let vague = words
                .clone()
                .any(|word| VAGUE.contains(&word.to_lowercase().as_str()));
            assert!(!vague, "{} is vague", place());
            if !inside {
                blocks += 1;
                let headed = words.next().is_none_or(|word| !HEADLESS.contains(&word));
                if !headed {
                    headless.push(place());
                }
            }
            inside = true;
        }
    }
    assert!(
        headless.len() * 20 < blocks,
        "{} of {blocks} comment blocks begin without a subject:\n{}",
        headless.len(),
        headless.join("\n")
    );
}

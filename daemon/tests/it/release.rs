//! `./dev release` refuses, in one sentence, whatever is not one committed, tagged and described
//! version.

use std::path::Path;
use std::process::Command;

use crate::support::text;

/// A repository with what the gate looks at.
struct Repository(tempfile::TempDir);

impl Repository {
    fn new() -> Self {
        let repository = Self(tempfile::tempdir().unwrap());
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        std::fs::create_dir(repository.0.path().join("deploy")).unwrap();
        for file in ["dev", "deploy/packages.sh"] {
            std::fs::copy(source.join(file), repository.0.path().join(file)).unwrap();
        }
        repository.write("Cargo.toml", "[workspace.package]\nversion = \"1.2.3\"\n");
        repository.write(
            "CHANGELOG.md",
            "# Changelog\n\n## [1.2.3] - 2026-12-24\n\n- Snow.\n",
        );
        repository.git(&["init", "-q"]);
        repository.commit();
        repository
    }

    fn write(&self, file: &str, content: &str) {
        std::fs::write(self.0.path().join(file), content).unwrap();
    }

    fn git(&self, arguments: &[&str]) {
        let author = ["-c", "user.name=Test", "-c", "user.email=test@localhost"];
        let done = Command::new("git")
            .args(author)
            .args(arguments)
            .current_dir(self.0.path())
            .status()
            .unwrap();
        assert!(done.success(), "git {arguments:?}");
    }

    fn commit(&self) {
        self.git(&["add", "."]);
        self.git(&["commit", "-q", "-m", "Change"]);
    }

    /// Returns the gate's complaint; empty if it lets the release pass.
    fn gate(&self) -> String {
        let output = Command::new("./dev")
            .args(["release", "check"])
            .current_dir(self.0.path())
            .output()
            .unwrap();
        let said = text(&output);
        assert_eq!(output.status.success(), said.is_empty(), "{said}");
        said
    }
}

/// Tag, version and changelog agree.
#[test]
fn a_release_needs_one_version_everywhere_and_a_clean_tree() {
    let repository = Repository::new();
    let tag = "dev: no release: Cargo.toml says 1.2.3, but this commit has no tag v1.2.3\n";
    assert_eq!(repository.gate(), tag);
    repository.git(&["tag", "v1.2.4"]);
    repository.git(&["tag", "1.2.3"]);
    assert_eq!(repository.gate(), tag);
    repository.git(&["tag", "v1.2.3"]);
    assert_eq!(repository.gate(), "");
    repository.write("notes.txt", "not committed");
    assert_eq!(
        repository.gate(),
        "dev: no release: there are uncommitted changes; see git status\n"
    );
    repository.commit();
    assert_eq!(repository.gate(), tag, "the tag is on an earlier commit");
    for (changelog, newest) in [
        (
            "# Changelog\n\n## Unreleased\n\n## 1.2.3 - 2026-12-24\n",
            "Unreleased",
        ),
        ("# Changelog\n\n## 1.2.2\n", "1.2.2"),
    ] {
        repository.write("CHANGELOG.md", changelog);
        repository.commit();
        repository.git(&["tag", "-f", "v1.2.3"]);
        let sentence = format!(
            "dev: no release: Cargo.toml says 1.2.3, but CHANGELOG.md begins with '{newest}'\n"
        );
        assert_eq!(repository.gate(), sentence);
    }
}

//! Sets of patterns of names and paths: written as globset reads them, matched by the lazy automaton
//! of regex-automata. globset's own sets would bring every engine of that crate, half a megabyte.

use std::cell::RefCell;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use globset::GlobBuilder;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

/// Memory for the automaton's states, which it makes while it matches.
const CACHE_BYTES: usize = 2 << 20;

/// Patterns that ignore case. An empty set matches nothing.
pub struct Patterns {
    automaton: DFA,
    cache: RefCell<Cache>,
}

impl Patterns {
    /// Compiles patterns, which were checked with the configuration.
    ///
    /// # Errors
    ///
    /// A pattern is not valid, or all of them together are too large.
    pub fn new<P: AsRef<str>>(patterns: &[P]) -> anyhow::Result<Self> {
        let expressions: Vec<String> = patterns
            .iter()
            .map(|pattern| {
                let pattern = pattern.as_ref();
                let glob = GlobBuilder::new(pattern).case_insensitive(true).build();
                let glob = glob.with_context(|| format!("the pattern {pattern:?} is not valid"))?;
                Ok(glob.regex().to_owned())
            })
            .collect::<anyhow::Result<_>>()?;
        // Names need not be UTF-8 and may hold line breaks.
        let bytes = syntax::Config::new().utf8(false).dot_matches_new_line(true);
        let automaton = DFA::builder()
            .configure(DFA::config().cache_capacity(CACHE_BYTES))
            .syntax(bytes)
            .thompson(thompson::Config::new().utf8(false))
            .build_many(&expressions)
            .context("the patterns of a folder are too large")?;
        Ok(Self {
            cache: RefCell::new(automaton.create_cache()),
            automaton,
        })
    }

    /// Tells whether a pattern matches the whole path.
    pub fn is_match(&self, path: &Path) -> bool {
        let input = Input::new(path.as_os_str().as_bytes())
            .anchored(Anchored::Yes)
            .earliest(true);
        // The search gives up only where that is asked for; it is not.
        self.automaton
            .try_search_fwd(&mut self.cache.borrow_mut(), &input)
            .is_ok_and(|found| found.is_some())
    }
}

impl fmt::Debug for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patterns").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn patterns_match_names_and_paths_without_case() {
        let patterns = Patterns::new(&["*.{jpg,jpeg}", "**/Skip/**", "cam[0-9]?.PNG"]).unwrap();
        for name in [
            "a.jpg",
            "a/b.JPEG",
            "skip/x",
            "a/b/SKIP/c/d.bmp",
            "CAM3x.png",
        ] {
            assert!(patterns.is_match(Path::new(name)), "{name}");
        }
        for name in [
            "a.jpg.part",
            "jpg",
            "skip",
            "a/skipped/x",
            "camera.png",
            "cam3.png",
        ] {
            assert!(!patterns.is_match(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn patterns_match_names_that_are_not_text() {
        let patterns = Patterns::new(&["*.jpg"]).unwrap();
        for name in [&b"\xFF\xFE.jpg"[..], b"a\nb.JPG"] {
            assert!(
                patterns.is_match(Path::new(OsStr::from_bytes(name))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn no_pattern_matches_nothing() {
        let patterns = Patterns::new::<&str>(&[]).unwrap();
        assert!(!patterns.is_match(Path::new("a.jpg")) && !patterns.is_match(Path::new("")));
    }

    #[test]
    fn many_patterns_with_many_stars_stay_fast_and_small() {
        let patterns: Vec<String> = (0..60).map(|n| format!("*{n}*a*b*{n}*c")).collect();
        let patterns = Patterns::new(&patterns).unwrap();
        let long = "1a2b3".repeat(50);
        for n in 0..200 {
            assert!(!patterns.is_match(Path::new(&format!("{long}{n}"))));
        }
        assert!(patterns.is_match(Path::new("17ab17c")));
    }

    #[test]
    fn a_wrong_pattern_is_named() {
        let error = Patterns::new(&["["]).unwrap_err();
        assert_eq!(error.to_string(), "the pattern \"[\" is not valid");
    }
}

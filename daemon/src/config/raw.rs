//! The configuration as typed: a TOML table whose keys are read one by one.
//!
//! Every problem is collected with key, value, rule and fix; keys that were not read are unknown
//! and refused. The meaning of the keys is defined in `config/mod.rs`.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use strsim::levenshtein;
use toml::{Table, Value};

use super::url::without_secrets;

/// A problem in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted key; empty for the file as a whole.
    pub key: String,
    /// Value as typed.
    pub value: String,
    /// Expected value and the fix.
    pub rule: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A line that was mistyped may contain the address of a camera with its password.
        let rule = without_secrets(&self.rule);
        match (self.key.is_empty(), self.value.is_empty()) {
            (true, _) => write!(f, "{rule}"),
            (false, true) => write!(f, "{}: {rule}", self.key),
            (false, false) => {
                let value = without_secrets(&self.value);
                write!(f, "{} = {value}: {rule}", self.key)
            }
        }
    }
}

/// A table whose keys are being read.
#[derive(Debug, Default)]
pub struct Raw {
    table: Table,
    asked: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Raw {
    /// Parses a file's text; a syntax error becomes the only problem.
    pub fn parse(text: &str) -> Self {
        match text.parse::<Table>() {
            Ok(table) => Self {
                table,
                ..Self::default()
            },
            Err(error) => {
                let mut raw = Self::default();
                raw.problems.push(Problem {
                    key: String::new(),
                    value: String::new(),
                    rule: format!("is not valid TOML: {}", error.to_string().trim_end()),
                });
                raw
            }
        }
    }

    /// Sets one dotted key from the command line; the value is TOML, or else text.
    pub fn set(&mut self, assignment: &str) {
        let Some((key, text)) = assignment.split_once('=') else {
            self.problem(
                assignment,
                "",
                "write --set key=value, for example --set mqtt.enabled=false",
            );
            return;
        };
        let value = format!("v = {text}")
            .parse::<Table>()
            .ok()
            .and_then(|mut table| table.remove("v"))
            .unwrap_or_else(|| Value::String(text.into()));
        let mut table = &mut self.table;
        let mut parts = key.trim().split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                table.insert(part.into(), value);
                return;
            }
            let next = table
                .entry(part)
                .or_insert_with(|| Value::Table(Table::new()));
            match next {
                Value::Table(inner) => table = inner,
                _ => break,
            }
        }
        self.problem(key, "", "is not inside a section");
    }

    /// Adds a problem.
    pub fn problem(&mut self, key: &str, value: impl fmt::Display, rule: impl fmt::Display) {
        self.problems.push(Problem {
            key: key.into(),
            value: value.to_string(),
            rule: rule.to_string(),
        });
    }

    /// Returns every key that was read, for the test that the shipped file shows them all.
    pub fn asked(&self) -> impl Iterator<Item = &str> {
        self.asked.iter().map(String::as_str)
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.asked.insert(key.into());
        let mut parts = key.split('.');
        let name = parts.next_back()?;
        let mut table = &mut self.table;
        for section in parts {
            table = table.get_mut(section)?.as_table_mut()?;
        }
        table.remove(name)
    }

    /// Returns the tables of `[[key]]`, each to be read by itself.
    pub fn tables(&mut self, key: &str) -> Vec<Self> {
        let tables = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(Value::try_into::<Table>)
                .collect::<Result<Vec<_>, _>>()
                .ok(),
            Some(_) => None,
        };
        if tables.is_none() {
            self.problem(key, "", format!("must be written as sections [[{key}]]"));
        }
        tables
            .unwrap_or_default()
            .into_iter()
            .map(|table| Self {
                table,
                ..Self::default()
            })
            .collect()
    }

    /// Returns the table as TOML, without these keys.
    pub fn without(&self, keys: &[&str]) -> String {
        let mut table = self.table.clone();
        for key in keys {
            table.remove(*key);
        }
        table.to_string()
    }

    /// Merges the problems and keys of table number `at` of `[[key]]`.
    pub fn merge(&mut self, key: &str, at: usize, table: Self) {
        self.asked
            .extend(table.asked.iter().map(|asked| format!("{key}.{asked}")));
        self.problems
            .extend(table.into_problems().into_iter().map(|mut problem| {
                problem.key = format!("{key}[{at}].{}", problem.key);
                problem
            }));
    }

    /// Reads a text.
    pub fn text(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                self.problem(key, other, "must be text in quotes");
                None
            }
        }
    }

    /// Reads a list of texts.
    pub fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        let value = self.take(key)?;
        let shown = value.to_string();
        let list = match value {
            Value::Array(items) => items
                .into_iter()
                .map(|item| item.as_str().map(String::from))
                .collect(),
            _ => None,
        };
        if list.is_none() {
            self.problem(
                key,
                shown,
                "must be a list of texts, for example [\"/srv/pictures\"]",
            );
        }
        list
    }

    /// Reads true or false.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        self.choice(key).unwrap_or(default)
    }

    /// Reads true or false; `None` if the key is not set.
    pub fn choice(&mut self, key: &str) -> Option<bool> {
        match self.take(key)? {
            Value::Boolean(flag) => Some(flag),
            other => {
                self.problem(key, other, "must be true or false");
                None
            }
        }
    }

    /// Reads a whole number within `range`.
    pub fn number(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.optional_number(key, range).unwrap_or(default)
    }

    /// Reads a whole number within `range`; `None` if the key is not set.
    pub fn optional_number(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(key)?;
        let number = value
            .as_integer()
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| range.contains(n));
        if number.is_none() {
            let rule = format!(
                "must be a whole number from {} to {}",
                range.start(),
                range.end()
            );
            self.problem(key, value, rule);
        }
        number
    }

    /// Reads a text, or a whole number as its digits.
    pub fn text_or_number(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            Value::Integer(number) => Some(number.to_string()),
            other => {
                self.problem(key, other, "must be text or a whole number");
                None
            }
        }
    }

    /// Reads a number within `range`, with or without a fraction.
    pub fn real(&mut self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.take(key)?;
        let number = value
            .as_float()
            .or_else(|| value.as_integer().map(|whole| whole as f64));
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.problem(
                key,
                value,
                format!("must be a number from {} to {}", range.start(), range.end()),
            );
        }
        number
    }

    /// Reads a time such as "500ms", "10s", "5m", "1h" or "7d" within `range`.
    pub fn duration(
        &mut self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        const UNITS: &[(&str, u64)] = &[
            ("ms", 1),
            ("s", 1000),
            ("m", 60_000),
            ("h", 3_600_000),
            ("d", 86_400_000),
        ];
        let Some(value) = self.take(key) else {
            return default;
        };
        let parsed = value
            .as_str()
            .and_then(|text| with_unit(text, UNITS))
            .map(Duration::from_millis);
        parsed.filter(|duration| range.contains(duration)).unwrap_or_else(|| {
            let rule = format!(
                "must be a time from {:?} to {:?} with its unit (ms, s, m, h, d), for example \"10s\"",
                range.start(),
                range.end()
            );
            self.problem(key, value, rule);
            default
        })
    }

    /// Reads a size such as "512KiB", "20MiB" or "2GiB" in bytes within `range`.
    pub fn size(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        const UNITS: &[(&str, u64)] = &[
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("B", 1),
        ];
        let Some(value) = self.take(key) else {
            return default;
        };
        let parsed = value.as_str().and_then(|text| with_unit(text, UNITS));
        parsed.filter(|size| range.contains(size)).unwrap_or_else(|| {
            let rule = format!(
                "must be a size from {} KiB to {} KiB with its unit (B, KiB, MiB, GiB), for example \"20MiB\"",
                range.start() >> 10,
                range.end() >> 10
            );
            self.problem(key, value, rule);
            default
        })
    }

    /// Returns all problems, unknown keys included.
    pub fn into_problems(mut self) -> Vec<Problem> {
        let mut left = vec![(String::new(), std::mem::take(&mut self.table))];
        while let Some((section, table)) = left.pop() {
            for (name, value) in table {
                let key = if section.is_empty() {
                    name
                } else {
                    format!("{section}.{name}")
                };
                let inside = format!("{key}.");
                let known: Vec<_> = self
                    .asked
                    .iter()
                    .filter(|known| known.starts_with(&inside))
                    .cloned()
                    .collect();
                match value {
                    Value::Table(table) if !known.is_empty() => left.push((key, table)),
                    other if known.is_empty() => {
                        let rule = match self
                            .asked
                            .iter()
                            .min_by_key(|known| levenshtein(known, &key))
                        {
                            Some(near) if levenshtein(near, &key) <= 4 => {
                                format!("is not a known key; did you mean {near}?")
                            }
                            _ => "is not a known key; deploy/kithd.toml lists them all".into(),
                        };
                        self.problem(&key, other, rule);
                    }
                    other => self.problem(
                        &key,
                        other,
                        format!("is a section; its keys are {}", known.join(", ")),
                    ),
                }
            }
        }
        self.problems
    }
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim())?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

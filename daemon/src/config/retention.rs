//! `[retention]`, checked: limits for the data of ended images.
//!
//! Their enforcement is in `queue/retention.rs`.

use std::time::Duration;

use super::{Raw, secs};

const DAY: u64 = 86_400;
const LONGEST: Duration = secs(3650 * DAY);

/// Limits for kept data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Finished images with everything known of them.
    pub images: Caps,
    /// Thumbnails for the page.
    pub thumbnails: Caps,
    /// Frames of cameras; the limit of bytes also covers waiting ones.
    pub camera: Caps,
    /// Bytes that came by HTTP or MQTT, of images that failed.
    pub uploads: Caps,
    /// Ended sightings.
    pub sightings: Caps,
    /// Age after which embedding and crop of unknown faces are deleted.
    pub strangers: Option<Duration>,
}

/// Limits beyond which the oldest are deleted; `None`: no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caps {
    /// Most time since the picture came in.
    pub age: Option<Duration>,
    /// Largest number.
    pub count: Option<u64>,
    /// Most bytes in all.
    pub bytes: Option<u64>,
}

impl Retention {
    pub(super) fn check(raw: &mut Raw) -> Self {
        let mut caps = |section: &str, count, mebibytes: u64| {
            let key = |name: &str| format!("retention.{section}.{name}");
            Caps {
                age: age(raw, &key("age"), 30),
                count: Some(raw.number(&key("count"), count, 0..=100_000_000))
                    .filter(|count| *count > 0),
                bytes: Some(raw.size(&key("bytes"), mebibytes << 20, 0..=1 << 50))
                    .filter(|bytes| *bytes > 0),
            }
        };
        Self {
            images: caps("images", 100_000, 2048),
            thumbnails: caps("thumbnails", 20_000, 512),
            camera: caps("camera", 10_000, 512),
            uploads: caps("uploads", 100, 256),
            sightings: Caps {
                age: age(raw, "retention.sightings.age", 365),
                count: Some(raw.number("retention.sightings.count", 1_000_000, 0..=10_000_000))
                    .filter(|count| *count > 0),
                bytes: None,
            },
            strangers: age(raw, "retention.strangers", 14),
        }
    }
}

fn age(raw: &mut Raw, key: &str, days: u64) -> Option<Duration> {
    Some(raw.duration(key, secs(days * DAY), Duration::ZERO..=LONGEST)).filter(|age| !age.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn every_cap_has_a_default_and_nothing_means_no_cap() {
        let config = Config::default().retention;
        assert_eq!(config.strangers, Some(secs(14 * DAY)));
        assert_eq!(
            (config.images.age, config.images.bytes),
            (Some(secs(30 * DAY)), Some(2 << 30))
        );
        let parts =
            [&config.thumbnails, &config.camera, &config.uploads].map(|caps| caps.bytes.unwrap());
        assert!(
            parts.iter().sum::<u64>() < config.images.bytes.unwrap(),
            "{parts:?} leave no room for rows"
        );
        let text = "[retention]\nstrangers = \"0s\"\n[retention.images]\nage = \"0s\"\ncount = 0\nbytes = \"0B\"\n";
        let config = Config::check(Raw::parse(text)).0.unwrap().retention;
        assert_eq!((config.strangers, config.images), (None, Caps::default()));
    }

    #[test]
    fn nested_sections_are_checked_and_an_old_key_names_the_new_one() {
        let problems = |text: &str| {
            let problems = Config::check(Raw::parse(text)).0.unwrap_err();
            Config::problems_text(None, &problems)
        };
        let text = problems(
            "[retention.images]\nagee = \"1d\"\nbytes = 5\n[retention.camera]\nage = \"5\"\n[retention.frames]\nx = 1\n",
        );
        for part in [
            "has 4 problems",
            "retention.images.agee = \"1d\": is not a known key; did you mean retention.images.age?",
            "retention.images.bytes = 5: must be a size",
            "retention.camera.age = \"5\": must be a time",
            "retention.frames = ",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        let text = problems("[retention]\nimages = 100000\n");
        assert!(
            text.contains(
                "retention.images = 100000: is a section; its keys are retention.images.age"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_command_line_reaches_into_nested_sections() {
        let mut raw = Raw::default();
        raw.set("retention.images.count=7");
        raw.set("retention.strangers=1h");
        let config = Config::check(raw).0.unwrap().retention;
        assert_eq!(
            (config.images.count, config.strangers),
            (Some(7), Some(secs(3600)))
        );
    }
}

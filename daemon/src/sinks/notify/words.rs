//! The words of a notification: title and text from the templates of its target, by the board's
//! time zone.

use jiff::{Timestamp, Zoned, tz::TimeZone};

use super::rules::Now;
use crate::config::{Notify, Placeholder};
use crate::domain::{Outcome, SeenStranger, SightingMessage};

/// Most characters of a title.
const LONGEST_TITLE: usize = 250;
/// Most characters of a text.
const LONGEST_TEXT: usize = 1000;
/// A clock before this moment was not set, since this program is newer. 2026-01-01.
const PLAUSIBLE_MS: i64 = 1_767_225_600_000;

/// Title and text of one notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// Title; never empty.
    pub title: String,
    /// Text; never empty.
    pub text: String,
}

impl Words {
    /// Fills in the templates.
    pub fn of(target: &Notify, message: &SightingMessage) -> Self {
        Self::in_zone(target, message, &TimeZone::system())
    }

    fn in_zone(target: &Notify, message: &SightingMessage, zone: &TimeZone) -> Self {
        let value = |place| match place {
            Placeholder::Who => who(message),
            Placeholder::Source => message.source.clone(),
            Placeholder::Time => time(message.began_ms, zone),
            Placeholder::Date => date(message.began_ms, zone),
            Placeholder::Device => message.device.clone(),
            Placeholder::Outcome => message.after.outcome.to_string(),
            Placeholder::History => {
                let stranger = message.after.stranger.as_ref();
                stranger.map_or(String::new(), |stranger| history(stranger, zone))
            }
        };
        let title = target.title.fill(LONGEST_TITLE, value);
        let text = target.text.fill(LONGEST_TEXT, value);
        // Servers put words of their own in the place of empty ones.
        let or = |words: String| {
            if words.is_empty() {
                who(message)
            } else {
                words
            }
        };
        Self {
            title: or(title).replace('\n', " "),
            text: or(text),
        }
    }
}

/// Returns the present moment for the rules.
pub fn now(queue_ms: i64, wall_ms: i64) -> Now {
    let minute = (wall_ms >= PLAUSIBLE_MS).then(|| {
        let time = local(wall_ms, &TimeZone::system());
        u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs())
    });
    Now { queue_ms, minute }
}

fn local(ms: i64, zone: &TimeZone) -> Zoned {
    Timestamp::from_millisecond(ms)
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .to_zoned(zone.clone())
}

fn time(ms: i64, zone: &TimeZone) -> String {
    let time = local(ms, zone);
    format!("{:02}:{:02}", time.hour(), time.minute())
}

fn date(ms: i64, zone: &TimeZone) -> String {
    let date = local(ms, zone);
    format!("{:04}-{:02}-{:02}", date.year(), date.month(), date.day())
}

fn who(message: &SightingMessage) -> String {
    let state = &message.after;
    match (state.outcome, &state.person, &state.stranger) {
        (Outcome::Known, Some(person), _) => person.name.clone(),
        (Outcome::Uncertain, Some(person), _) => format!("Perhaps {}", person.name),
        (_, _, Some(stranger)) => format!("Stranger {}", stranger.number),
        _ => "Unknown face".into(),
    }
}

/// Returns a sentence: "Third time this week, 12 times in all."
fn history(stranger: &SeenStranger, zone: &TimeZone) -> String {
    let SeenStranger {
        sightings,
        this_week,
        before_ms,
        ..
    } = *stranger;
    if sightings <= 1 {
        return "Not seen before.".into();
    }
    if this_week <= 1 {
        let times = match sightings - 1 {
            1 => "once".into(),
            times => format!("{times} times"),
        };
        let last = before_ms.map_or(String::new(), |ms| format!(", last on {}", date(ms, zone)));
        return format!("Seen {times} before{last}.");
    }
    let ordinal = match this_week {
        2 => "Second time".into(),
        3 => "Third time".into(),
        4 => "Fourth time".into(),
        5 => "Fifth time".into(),
        times => format!("{times} times"),
    };
    let all = if sightings > this_week {
        format!(", {sightings} times in all")
    } else {
        String::new()
    };
    format!("{ordinal} this week{all}.")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{sighting, target};
    use super::*;
    use crate::domain::NamedCandidate;

    #[test]
    fn words_say_who_where_when_and_how_often() {
        let mut target = target("hours = []\n");
        let mut message = sighting(Outcome::Unknown);
        // 2026-11-23 07:21:05 UTC.
        message.began_ms = 1_795_418_465_000;
        let east = TimeZone::fixed(jiff::tz::offset(2));
        let words = |target: &Notify, message: &SightingMessage| {
            let words = Words::in_zone(target, message, &east);
            (words.title, words.text)
        };
        let of = |title: &str, text: &str| (title.to_owned(), text.to_owned());
        assert_eq!(
            words(&target, &message),
            of("Unknown face", "front, 09:21.")
        );
        let mut seen = SeenStranger {
            number: 12,
            sightings: 5,
            this_week: 3,
            before_ms: Some(1_795_400_000_000),
        };
        message.after.stranger = Some(seen.clone());
        assert_eq!(
            words(&target, &message),
            of(
                "Stranger 12",
                "front, 09:21. Third time this week, 5 times in all."
            )
        );
        for (sightings, this_week, sentence) in [
            (1, 1, "Not seen before."),
            (2, 1, "Seen once before, last on 2026-11-23."),
            (4, 1, "Seen 3 times before, last on 2026-11-23."),
            (2, 2, "Second time this week."),
            (9, 7, "7 times this week, 9 times in all."),
        ] {
            (seen.sightings, seen.this_week) = (sightings, this_week);
            assert_eq!(history(&seen, &east), sentence);
        }
        message.after.stranger = None;
        message.after.person = Some(NamedCandidate {
            person_id: 1,
            name: "Änne".into(),
            distance: None,
        });
        message.after.outcome = Outcome::Uncertain;
        assert_eq!(words(&target, &message).0, "Perhaps Änne");
        message.after.outcome = Outcome::Known;
        target = super::super::tests::target(
            "title = \"{history}\"\ntext = \"{device} {outcome} {date}: {who}\"\n",
        );
        assert_eq!(
            words(&target, &message),
            of("Änne", "board known 2026-11-23: Änne")
        );
    }

    #[test]
    fn a_clock_that_was_not_set_has_no_hour() {
        assert_eq!(now(1, 0).minute, None);
        assert_eq!(now(1, PLAUSIBLE_MS - 1).minute, None);
        assert!(
            now(1, PLAUSIBLE_MS)
                .minute
                .is_some_and(|minute| minute < 1440)
        );
    }
}

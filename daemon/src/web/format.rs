//! Formats durations, distances, ages and numbers for the page. The API gives the plain values.

use crate::domain::{Certainty, Outcome};

/// Formats a duration: "84 ms", "1.2 s", "2 min 3 s".
pub fn duration(ms: i64) -> String {
    match ms {
        ..1000 => format!("{ms}\u{a0}ms"),
        // Tenths are cut, not rounded: 59.99 s must not read "60.0 s".
        1000..60_000 => format!("{}.{}\u{a0}s", ms / 1000, ms % 1000 / 100),
        _ => format!("{}\u{a0}min {}\u{a0}s", ms / 60_000, ms / 1000 % 60),
    }
}

/// Formats a distance with three decimals, as fine as a threshold is ever set.
pub fn distance(value: f64) -> String {
    format!("{value:.3}")
}

/// Formats a number: "1 204 331", with narrow spaces that do not break.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Formats a number with its noun: "1 face", "1 204 faces".
pub fn counted(value: u64, one: &str, more: &str) -> String {
    let noun = if value == 1 { one } else { more };
    format!("{} {noun}", number(value))
}

/// Formats a place in an order: "third", "22nd".
pub fn ordinal(value: u32) -> String {
    const WORDS: [&str; 10] = [
        "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
        "tenth",
    ];
    let word = value
        .checked_sub(1)
        .and_then(|place| WORDS.get(place as usize));
    let ending = match (value % 100, value % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    word.map_or_else(|| format!("{value}{ending}"), ToString::to_string)
}

/// Formats the length of a visit: "12 s", "3 min", "2 h 5 min".
pub fn span(ms: i64) -> String {
    match ms / 1000 {
        seconds @ ..60 => format!("{seconds}\u{a0}s"),
        seconds @ 60..3600 => format!("{}\u{a0}min", seconds / 60),
        seconds => format!("{}\u{a0}h {}\u{a0}min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Returns the confidence of a match in words, from the outcome and from the distance as a share of
/// the threshold.
///
/// The words follow the outcome, so that a blurred face that happens to be near is "perhaps" too.
/// Without a threshold (the model pack is not loaded yet) a known face is "likely".
pub fn confidence(outcome: Outcome, distance: f64, threshold: Option<f32>) -> &'static str {
    match (outcome, Certainty::share(distance, threshold)) {
        (Outcome::Known, _) => Certainty::of(distance, threshold).as_str(),
        (Outcome::Uncertain, _) => "perhaps",
        (Outcome::Unknown, Some(..1.25)) => "no match, but near",
        (Outcome::Unknown | Outcome::NoFace, _) => "no match",
    }
}

/// Formats an age: "now", "12 s", "3 min", "5 h", "2 d".
pub fn age(ms: i64) -> String {
    match ms / 1000 {
        ..5 => "now".into(),
        seconds @ 5..60 => format!("{seconds}\u{a0}s"),
        seconds @ 60..3600 => format!("{}\u{a0}min", seconds / 60),
        seconds @ 3600..172_800 => format!("{}\u{a0}h", seconds / 3600),
        seconds => format!("{}\u{a0}d", seconds / 86_400),
    }
}

/// Formats an age as past: "just now", "12 s ago".
pub fn past(ms: i64) -> String {
    if ms < 5000 {
        "just now".into()
    } else {
        format!("{}\u{a0}ago", age(ms))
    }
}

/// Formats a size: "512 MiB", "1.5 GiB".
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (bytes.max(1).ilog2() / 10).min(4);
    let value = bytes as f64 / f64::from(1_u32 << 10).powi(step as i32);
    let decimals = usize::from(step > 0 && value < 9.95);
    format!("{value:.decimals$}\u{a0}{}", UNITS[step as usize])
}

/// Formats a share as per cent: "0 %", "0.02 %", "37 %".
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    match value {
        _ if value == 0.0 => "0\u{a0}%".into(),
        ..0.01 => "below 0.01\u{a0}%".into(),
        ..1.0 => format!("{value:.2}\u{a0}%"),
        ..10.0 => format!("{value:.1}\u{a0}%"),
        _ => format!("{value:.0}\u{a0}%"),
    }
}

/// Formats an internal word for people: "no face" for `no_face`.
pub fn words(word: &str) -> String {
    word.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_numbers_read_as_people_write_them() {
        assert_eq!(duration(84), "84\u{a0}ms");
        assert_eq!(duration(1290), "1.2\u{a0}s");
        assert_eq!(duration(123_000), "2\u{a0}min 3\u{a0}s");
        assert_eq!(number(7), "7");
        assert_eq!(number(1_204_331), "1\u{202f}204\u{202f}331");
        assert_eq!(distance(0.41249), "0.412");
        assert_eq!(counted(1, "face", "faces"), "1 face");
        assert_eq!(counted(0, "face", "faces"), "0 faces");
        assert_eq!(
            [1, 10, 11, 22, 113].map(ordinal),
            ["first", "tenth", "11th", "22nd", "113th"]
        );
        assert_eq!(
            [9_000, 61_000, 7_500_000].map(span),
            ["9\u{a0}s", "1\u{a0}min", "2\u{a0}h 5\u{a0}min"]
        );
    }

    #[test]
    fn ages_bytes_and_shares_read_as_people_say_them() {
        assert_eq!(
            [-9_000, 4_999, 5_000, 59_999].map(age),
            ["now", "now", "5\u{a0}s", "59\u{a0}s"]
        );
        assert_eq!(
            [60_000, 3_600_000, 172_800_000].map(age),
            ["1\u{a0}min", "1\u{a0}h", "2\u{a0}d"]
        );
        assert_eq!([0, 61_000].map(past), ["just now", "1\u{a0}min\u{a0}ago"]);
        assert_eq!(
            [0, 1023, 1536, 64 << 20].map(bytes),
            ["0\u{a0}B", "1023\u{a0}B", "1.5\u{a0}KiB", "64\u{a0}MiB"]
        );
        assert_eq!(bytes(u64::MAX), "16777216\u{a0}TiB");
        assert_eq!(
            [0.0, 0.000_01, 0.0017, 0.05, 0.37].map(percent).join(" "),
            "0\u{a0}% below 0.01\u{a0}% 0.17\u{a0}% 5.0\u{a0}% 37\u{a0}%"
        );
    }

    #[test]
    fn confidence_follows_the_outcome_and_then_the_distance() {
        let word = |outcome, distance| confidence(outcome, distance, Some(0.6));
        assert_eq!(
            [0.3, 0.5, 0.54].map(|near| word(Outcome::Known, near)),
            ["almost certain", "very likely", "likely"]
        );
        assert_eq!(word(Outcome::Uncertain, 0.3), "perhaps");
        assert_eq!(
            [0.7, 0.9].map(|far| word(Outcome::Unknown, far)),
            ["no match, but near", "no match"]
        );
        assert_eq!(confidence(Outcome::Known, 0.1, None), "likely");
    }
}

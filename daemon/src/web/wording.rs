//! How times, durations, distances and numbers read on the page. The API gives the plain values.

/// A moment for a `<time>` element; the script turns the text into the reader's own time.
pub struct Moment {
    /// For the `datetime` attribute.
    pub iso: String,
    /// For readers without JavaScript.
    pub text: String,
}

impl Moment {
    /// From milliseconds since 1970.
    pub fn from_ms(ms: i64) -> Self {
        let seconds = ms.div_euclid(1000);
        let (year, month, day) = civil(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        let date = format!("{year:04}-{month:02}-{day:02}");
        let time = format!("{hour:02}:{minute:02}:{second:02}");
        Self { iso: format!("{date}T{time}.{:03}Z", ms.rem_euclid(1000)), text: format!("{date} {time} UTC") }
    }
}

/// Year, month and day of a day number since 1970-01-01, proleptic Gregorian.
///
/// Years are counted from March, so that the leap day is the last of its year and months have a linear formula.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_TO_1970: i64 = 719_468; // from 0000-03-01
    const DAYS_PER_ERA: i64 = 146_097; // 400 years
    let days = days + DAYS_TO_1970;
    let of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + days.div_euclid(DAYS_PER_ERA) * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// "84 ms", "1.2 s", "2 min 3 s".
pub fn duration(ms: i64) -> String {
    match ms {
        ..1000 => format!("{ms}\u{a0}ms"),
        // Tenths are cut, not rounded: 59.99 s must not read "60.0 s".
        1000..60_000 => format!("{}.{}\u{a0}s", ms / 1000, ms % 1000 / 100),
        _ => format!("{}\u{a0}min {}\u{a0}s", ms / 60_000, ms / 1000 % 60),
    }
}

/// Three decimals: as fine as a threshold is ever set.
pub fn distance(value: f64) -> String {
    format!("{value:.3}")
}

/// "1 204 331", with narrow spaces that do not break.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_iso_and_as_words_over_leap_days_and_before_1970() {
        assert_eq!(Moment::from_ms(0).iso, "1970-01-01T00:00:00.000Z");
        assert_eq!(Moment::from_ms(951_782_400_123).iso, "2000-02-29T00:00:00.123Z");
        assert_eq!(Moment::from_ms(1_795_418_465_000).text, "2026-11-23 07:21:05 UTC");
        assert_eq!(Moment::from_ms(-1).iso, "1969-12-31T23:59:59.999Z");
        assert_eq!(Moment::from_ms(4_107_542_399_000).iso, "2100-02-28T23:59:59.000Z");
        assert_eq!(Moment::from_ms(4_107_542_400_000).iso, "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn durations_and_numbers_read_as_people_write_them() {
        assert_eq!(duration(84), "84\u{a0}ms");
        assert_eq!(duration(1290), "1.2\u{a0}s");
        assert_eq!(duration(123_000), "2\u{a0}min 3\u{a0}s");
        assert_eq!(number(7), "7");
        assert_eq!(number(1_204_331), "1\u{202f}204\u{202f}331");
        assert_eq!(distance(0.41249), "0.412");
    }
}

//! Wall-clock time, and how people read it.

/// Returns milliseconds since 1970 by the board's clock. It may be wrong: use it for display, never
/// for order.
pub fn wall_clock_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

/// A moment for display, by the board's clock.
pub struct Moment {
    /// ISO 8601, for machines: 2026-11-23T07:21:05.000Z.
    pub iso: String,
    /// 2026-11-23 07:21:05 UTC.
    pub text: String,
}

impl Moment {
    /// Converts milliseconds since 1970.
    pub fn from_ms(ms: i64) -> Self {
        let seconds = ms.div_euclid(1000);
        let (year, month, day) = civil(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        let date = format!("{year:04}-{month:02}-{day:02}");
        let time = format!("{hour:02}:{minute:02}:{second:02}");
        Self {
            iso: format!("{date}T{time}.{:03}Z", ms.rem_euclid(1000)),
            text: format!("{date} {time} UTC"),
        }
    }

    /// The date alone: 2026-11-23.
    pub fn date(&self) -> &str {
        self.iso.split('T').next().unwrap_or_default()
    }
}

/// Converts a day number since 1970-01-01 to year, month and day, proleptic Gregorian.
///
/// Years are counted from March, so that the leap day is the last of its year and months have a
/// linear formula.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_TO_1970: i64 = 719_468; // from 0000-03-01
    const DAYS_PER_ERA: i64 = 146_097; // 400 years
    let days = days + DAYS_TO_1970;
    let of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + days.div_euclid(DAYS_PER_ERA) * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_iso_and_words_over_leap_days_and_before_1970() {
        assert_eq!(Moment::from_ms(0).iso, "1970-01-01T00:00:00.000Z");
        assert_eq!(
            Moment::from_ms(951_782_400_123).iso,
            "2000-02-29T00:00:00.123Z"
        );
        assert_eq!(
            Moment::from_ms(1_795_418_465_000).text,
            "2026-11-23 07:21:05 UTC"
        );
        assert_eq!(Moment::from_ms(1_795_418_465_000).date(), "2026-11-23");
        assert_eq!(Moment::from_ms(-1).iso, "1969-12-31T23:59:59.999Z");
        assert_eq!(
            Moment::from_ms(4_107_542_399_000).iso,
            "2100-02-28T23:59:59.000Z"
        );
        assert_eq!(
            Moment::from_ms(4_107_542_400_000).iso,
            "2100-03-01T00:00:00.000Z"
        );
    }
}

//! How durations, distances and numbers read on the page. The API gives the plain values.

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
    fn durations_and_numbers_read_as_people_write_them() {
        assert_eq!(duration(84), "84\u{a0}ms");
        assert_eq!(duration(1290), "1.2\u{a0}s");
        assert_eq!(duration(123_000), "2\u{a0}min 3\u{a0}s");
        assert_eq!(number(7), "7");
        assert_eq!(number(1_204_331), "1\u{202f}204\u{202f}331");
        assert_eq!(distance(0.41249), "0.412");
    }
}

//! How sure a match is, as words and as a number, from its distance. The distance itself is what is
//! stored; words and number are made of it wherever they are shown.

use std::str::FromStr;

/// How sure it is that a known face is its person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// Near enough to be known.
    Likely,
    /// Clearly below the threshold.
    VeryLikely,
    /// Far below the threshold.
    AlmostCertain,
}

impl Certainty {
    const ALL: [Self; 3] = [Self::Likely, Self::VeryLikely, Self::AlmostCertain];

    /// Returns the certainty of a known face. Without a threshold (the model pack is not loaded
    /// yet) it is only likely.
    pub fn of(distance: f64, threshold: Option<f32>) -> Self {
        match Self::share(distance, threshold) {
            Some(..0.7) => Self::AlmostCertain,
            Some(..0.85) => Self::VeryLikely,
            _ => Self::Likely,
        }
    }

    /// Returns the distance as a share of the threshold.
    pub fn share(distance: f64, threshold: Option<f32>) -> Option<f64> {
        let threshold = threshold.filter(|threshold| *threshold > 0.0)?;
        Some(distance / f64::from(threshold))
    }

    /// Returns a known face's score for systems that want one from 0 to 1, with two decimals: 1 at
    /// distance 0 and 0.5 at the threshold. It grows with certainty and is no probability.
    pub fn score(distance: f64, threshold: Option<f32>) -> f64 {
        let share = Self::share(distance, threshold).unwrap_or(1.0);
        let score = 1.0 - share.clamp(0.0, 1.0) / 2.0;
        (score * 100.0).round() / 100.0
    }

    /// Returns it in words, as the page and the configuration spell them.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Likely => "likely",
            Self::VeryLikely => "very likely",
            Self::AlmostCertain => "almost certain",
        }
    }
}

impl FromStr for Certainty {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|one| one.as_str() == text);
        known.ok_or_else(|| {
            "must be \"likely\", \"very likely\" or \"almost certain\", as the page says it".into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certainty_and_score_follow_the_distance() {
        let of = |distance| Certainty::of(distance, Some(0.6)).as_str();
        assert_eq!(
            [0.3, 0.5, 0.54].map(of),
            ["almost certain", "very likely", "likely"]
        );
        assert_eq!(Certainty::of(0.1, None), Certainty::Likely);
        assert_eq!(
            [0.0, 0.3, 0.42, 0.6, 0.9, -1.0].map(|distance| Certainty::score(distance, Some(0.6))),
            [1.0, 0.75, 0.65, 0.5, 0.5, 1.0]
        );
        assert_eq!(Certainty::score(0.1, None), 0.5);
    }

    #[test]
    fn certainty_is_spelled_as_the_page_says_it() {
        for one in Certainty::ALL {
            assert_eq!(one.as_str().parse(), Ok(one));
        }
        assert!("certain".parse::<Certainty>().is_err());
        assert!(Certainty::AlmostCertain > Certainty::VeryLikely);
    }
}

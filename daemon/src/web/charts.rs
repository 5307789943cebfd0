//! Small charts as inline SVG, drawn here so that they need neither a script nor a picture. Colours
//! are the stylesheet's.
//!
//! This module knows only numbers and positions; the pages define content and titles.

use std::fmt::Write;

/// Size of every drawing; the page scales it.
pub const WIDTH: f64 = 400.0;
/// See [`WIDTH`].
pub const HEIGHT: f64 = 160.0;
/// Edges of the area within the axes.
pub const LEFT: f64 = 44.0;
/// See [`LEFT`].
pub const END: f64 = WIDTH - 10.0;
/// See [`LEFT`].
pub const TOP: f64 = 10.0;
/// See [`LEFT`].
pub const BASE: f64 = HEIGHT - 22.0;

/// Upper edge of a band.
pub const BAND: f64 = BASE - 32.0;

/// A drawing with its axes and labels.
pub struct Chart {
    /// Id of the element on the page.
    pub id: &'static str,
    /// Title.
    pub title: &'static str,
    /// Description with numbers, for readers who cannot see the drawing.
    pub summary: String,
    /// Top of the drawing: 0, or lower if the content is not as high.
    pub from: f64,
    /// Class and path of each line and area, from the back to the front.
    pub shapes: Vec<(&'static str, String)>,
    /// Height and label of each horizontal line.
    pub rows: Vec<(f64, String)>,
    /// Position, anchor and label of each place below.
    pub columns: Vec<(f64, &'static str, String)>,
    /// Vertical marks.
    pub marks: Vec<Mark>,
    /// Class and name of each shape in the legend.
    pub legend: Vec<(&'static str, &'static str)>,
}

/// A vertical line.
pub struct Mark {
    /// CSS class.
    pub class: &'static str,
    /// Horizontal position.
    pub x: f64,
    /// Horizontal position and anchor of its label.
    pub label: (f64, &'static str),
    /// Label.
    pub word: String,
}

/// Maps values to positions.
pub struct Frame {
    left: f64,
    right: f64,
    top: f64,
    logarithmic: Option<f64>,
}

impl Frame {
    /// Makes a frame from `left` to `right`, and from 0 to `top`.
    pub fn new(left: f64, right: f64, top: f64) -> Self {
        Self {
            left,
            right,
            top,
            logarithmic: None,
        }
    }

    /// Makes a frame from `lowest` to `top` with a logarithmic axis; lower values lie at the
    /// bottom.
    pub fn logarithmic(left: f64, right: f64, lowest: f64, top: f64) -> Self {
        Self {
            left,
            right,
            top,
            logarithmic: Some(lowest),
        }
    }

    /// Returns the horizontal position of a value, limited to the drawing.
    pub fn x(&self, value: f64) -> f64 {
        let share = (value - self.left) / (self.right - self.left).max(f64::MIN_POSITIVE);
        LEFT + share.clamp(0.0, 1.0) * (END - LEFT)
    }

    /// Returns the vertical position of a value, limited to the drawing.
    pub fn y(&self, value: f64) -> f64 {
        let share = match self.logarithmic {
            Some(lowest) => (value.max(lowest) / lowest).ln() / (self.top / lowest).ln(),
            None => value / self.top.max(f64::MIN_POSITIVE),
        };
        BASE - share.clamp(0.0, 1.0) * (BASE - TOP)
    }

    /// Draws a line through values; it is interrupted where there is none.
    pub fn line(&self, points: &[(f64, Option<f64>)]) -> String {
        let mut path = String::new();
        for run in runs(points) {
            for (place, (x, y)) in run.iter().enumerate() {
                let _ = write!(
                    path,
                    "{}{:.1} {:.1}",
                    if place == 0 { "M" } else { "L" },
                    self.x(*x),
                    self.y(*y)
                );
            }
            if run.len() == 1 {
                // A dot: the line has round ends.
                path.push_str("h.01");
            }
        }
        path
    }

    /// Draws the area between two lines over the same places; interrupted where either has no
    /// value.
    pub fn area(&self, points: &[(f64, Option<f64>)], below: &[(f64, Option<f64>)]) -> String {
        let both: Vec<_> = points
            .iter()
            .zip(below)
            .map(|((x, high), (_, low))| (*x, high.zip(*low)))
            .collect();
        let mut path = String::new();
        for run in runs(&both) {
            for (place, (x, (high, _))) in run.iter().enumerate() {
                let _ = write!(
                    path,
                    "{}{:.1} {:.1}",
                    if place == 0 { "M" } else { "L" },
                    self.x(*x),
                    self.y(*high)
                );
            }
            for (x, (_, low)) in run.iter().rev() {
                let _ = write!(path, "L{:.1} {:.1}", self.x(*x), self.y(*low));
            }
            path.push('Z');
        }
        path
    }

    /// Draws the area between a line and the bottom.
    pub fn filled(&self, points: &[(f64, Option<f64>)]) -> String {
        let bottom: Vec<_> = points.iter().map(|(x, _)| (*x, Some(0.0))).collect();
        self.area(points, &bottom)
    }

    /// Draws adjacent bars: left edge, right edge, height.
    pub fn bars(&self, bars: &[(f64, f64, f64)]) -> String {
        let mut path = String::new();
        for (left, right, height) in bars.iter().filter(|(_, _, height)| *height > 0.0) {
            let (left, right) = (self.x(*left), self.x(*right));
            let _ = write!(
                path,
                "M{left:.1} {:.1}V{:.1}H{right:.1}V{0:.1}Z",
                self.y(0.0),
                self.y(*height)
            );
        }
        path
    }

    /// Draws a piece of a band at the bottom, at least wide enough to be visible.
    pub fn band(&self, from: f64, to: f64) -> String {
        let (left, right) = (self.x(from), self.x(to));
        format!(
            "M{left:.1} {BASE}H{:.1}V{BAND}H{left:.1}Z",
            right.max(left + 1.5)
        )
    }

    /// Makes a vertical line with its label on the side that has room.
    pub fn mark(&self, class: &'static str, value: f64, word: String) -> Mark {
        let x = self.x(value);
        let label = if x > WIDTH * 0.6 {
            (x - 5.0, "end")
        } else {
            (x + 5.0, "start")
        };
        Mark {
            class,
            x,
            label,
            word,
        }
    }

    /// Places labels below, from left to right; the outermost stay within the drawing.
    pub fn columns(&self, words: Vec<(f64, String)>) -> Vec<(f64, &'static str, String)> {
        let last = words.len().saturating_sub(1);
        let anchor = |place| match place {
            0 => "start",
            _ if place == last => "end",
            _ => "middle",
        };
        words
            .into_iter()
            .enumerate()
            .map(|(place, (value, word))| (self.x(value), anchor(place), word))
            .collect()
    }

    /// Makes horizontal lines at the bottom, the middle and the top.
    pub fn rows(&self, word: impl Fn(f64) -> String) -> Vec<(f64, String)> {
        [0.0, self.top / 2.0, self.top]
            .map(|value| (self.y(value), word(value)))
            .into()
    }
}

/// Returns the next round number from a value up: 1, 2 or 5 times a power of ten, at least `least`.
pub fn round_up(value: f64, least: f64) -> f64 {
    let value = if value.is_finite() {
        value.max(least)
    } else {
        least
    };
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|step| step * power)
        .into_iter()
        .find(|round| *round >= value)
        .unwrap_or(value)
}

/// Formats a number of an axis as short as possible.
pub fn tick(value: f64) -> String {
    match value {
        10_000.0.. => format!("{}k", (value / 100.0).round() / 10.0),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{}", (value * 100.0).round() / 100.0),
    }
}

/// Returns the uninterrupted runs of values.
fn runs<T: Copy>(points: &[(f64, Option<T>)]) -> Vec<Vec<(f64, T)>> {
    let stretches = points.split(|(_, value)| value.is_none());
    let stretches = stretches.filter(|stretch| !stretch.is_empty());
    stretches
        .map(|stretch| {
            stretch
                .iter()
                .filter_map(|(x, value)| Some((*x, (*value)?)))
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_breaks_where_no_value_is_and_a_lone_value_is_a_dot() {
        let frame = Frame::new(0.0, 4.0, 10.0);
        let line = frame.line(&[
            (0.0, Some(0.0)),
            (1.0, Some(10.0)),
            (2.0, None),
            (3.0, Some(5.0)),
            (4.0, None),
        ]);
        assert_eq!(line, "M44.0 138.0L130.5 10.0M303.5 74.0h.01");
        assert_eq!(
            frame.filled(&[(0.0, Some(10.0)), (4.0, Some(10.0))]),
            "M44.0 10.0L390.0 10.0L390.0 138.0L44.0 138.0Z"
        );
    }

    #[test]
    fn nothing_leaves_the_drawing_and_axes_end_in_round_numbers() {
        let frame = Frame::new(0.0, 4.0, 10.0);
        assert_eq!((frame.x(-7.0), frame.y(99.0)), (LEFT, TOP));
        let logarithmic = Frame::logarithmic(0.0, 1.0, 0.0001, 1.0);
        assert_eq!((logarithmic.y(0.0), logarithmic.y(1.0)), (BASE, TOP));
        assert!((logarithmic.y(0.01) - (TOP + BASE) / 2.0).abs() < 0.01);
        assert_eq!(
            [0.0, 3.0, 17.0, 201.0].map(|value| round_up(value, 1.0)),
            [1.0, 5.0, 20.0, 500.0]
        );
        assert_eq!([0.5, 20.0, 25_000.0].map(tick), ["0.5", "20", "25k"]);
    }
}

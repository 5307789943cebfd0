//! The detection error trade-off of `kithd eval --gallery` as SVG.

use std::fmt::Write;

use kith_vision::evaluation::identification::DetPoint;

/// Draws the trade-off of each size as SVG; both rates are on a logarithmic scale from 1 in 1000.
pub fn det(curves: &[(usize, Vec<DetPoint>)]) -> String {
    const COLOURS: [&str; 6] = [
        "#1b6ca8", "#c0392b", "#2e8b57", "#8e5ea2", "#d98e04", "#555555",
    ];
    const LEAST: f64 = 0.001;
    let (left, top, side) = (70.0, 40.0, 420.0);
    let along = |rate: f64| side * (1.0 - rate.max(LEAST).log10() / LEAST.log10());
    let (x, y) = (
        |rate: f64| left + along(rate),
        |rate: f64| top + side - along(rate),
    );
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 520 520\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"520\" height=\"520\" fill=\"white\"/>\n\
         <text x=\"70\" y=\"24\" font-size=\"14\">Enrolled people missed over strangers with a match</text>\n",
    );
    // Writing to a string cannot fail.
    for (rate, word) in [
        (0.001, "0.1 %"),
        (0.01, "1 %"),
        (0.1, "10 %"),
        (1.0, "100 %"),
    ] {
        let (x, y, right, bottom) = (x(rate), y(rate), left + side, top + side);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {top}V{bottom}M{left} {y:.1}H{right}\" stroke=\"#ddd\" fill=\"none\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{word}</text>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{word}</text>",
            bottom + 18.0,
            left - 8.0,
            y + 4.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"505\" text-anchor=\"middle\">strangers with a match (FPIR)</text>\
         <text transform=\"translate(18 {:.0}) rotate(-90)\" text-anchor=\"middle\">enrolled people missed (FNIR)</text>",
        left + side / 2.0,
        top + side / 2.0
    );
    for (at, (enrolled, points)) in curves.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let mut path = String::new();
        let mut last = [f64::INFINITY; 2];
        for point in points
            .iter()
            .filter(|point| point.fpir.is_finite() && point.fnir.is_finite())
        {
            let place = [x(point.fpir), y(point.fnir)];
            if path.is_empty() {
                let _ = write!(path, "M{:.1} {:.1}", place[0], place[1]);
            } else if (place[0] - last[0]).hypot(place[1] - last[1]) < 1.0 {
                continue;
            } else {
                let _ = write!(path, "H{:.1}V{:.1}", place[0], place[1]);
            }
            last = place;
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"1.5\" fill=\"none\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\" fill=\"{colour}\">{enrolled} enrolled</text>",
            left + side - 8.0,
            top + 18.0 * (at + 1) as f64
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trade_off_is_drawn_with_a_line_for_each_size() {
        let point = |threshold, fpir, fnir| DetPoint {
            threshold,
            fpir,
            fnir,
        };
        let curve = vec![
            point(0.1, 0.0, 0.5),
            point(0.2, 0.01, 0.1),
            point(0.3, 1.0, 0.0),
        ];
        let svg = det(&[(19, curve.clone()), (99, curve)]);
        assert_eq!(svg.matches(" enrolled</text>").count(), 2);
        assert!(svg.contains("M70.0 82.1H210.0V180.0H490.0V460.0"), "{svg}");
    }
}

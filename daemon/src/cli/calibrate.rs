//! `kithd calibrate`: shows what the gallery says about the threshold, whether the daemon runs or
//! not.

use std::process::ExitCode;

use anyhow::bail;
use kith_vision::Gallery;

use crate::config::Config;
use crate::engine_process::load_pack;
use crate::people::{Calibration, CalibrationPoint, calibrate};
use crate::store::{Store, gallery};

/// Rows of the plot.
const HEIGHT: usize = 8;

/// Arguments of `kithd calibrate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Reads the gallery and prints the distances and error rates.
pub fn run(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let Some(connection) = Store::open_for_reading(&config.state_dir)? else {
        bail!(
            "there is no database in {} yet: kithd has not run with this state_dir",
            config.state_dir.display()
        );
    };
    let pack = load_pack(&config.models)?;
    let matching = config.recognition.judging.of(&pack);
    let mut pictures = Gallery::of(&matching, pack.dimension());
    for row in gallery(&connection, pack.space())? {
        if pictures
            .push(row.person_id, row.person_image_id, &row.embedding)
            .is_err()
        {
            eprintln!(
                "picture {} of {} is left out: its embedding is damaged",
                row.image_name, row.name
            );
        }
    }
    let calibration = calibrate(&pictures, &matching, config.recognition.judging.caution);
    if args.json {
        println!("{}", serde_json::to_string(&calibration)?);
    } else {
        print!("{}", as_text(&calibration));
    }
    Ok(ExitCode::SUCCESS)
}

fn as_text(calibration: &Calibration) -> String {
    let Calibration {
        people,
        pictures,
        genuine,
        impostors,
        threshold,
        now,
        recommended,
        reason,
        ..
    } = calibration;
    let mut text = format!(
        "{people} people, {pictures} pictures: {genuine} pairs of one person, {impostors} pairs of two people\n"
    );
    if !calibration.bins.is_empty() && genuine + impostors > 0 {
        text.push_str(&plot(
            "pairs of one person",
            &calibration.genuine_share,
            &calibration.bins,
            *threshold,
        ));
        text.push_str(&plot(
            "pairs of two people",
            &calibration.impostor_share,
            &calibration.bins,
            *threshold,
        ));
    }
    let rates = |name: &str, point: &CalibrationPoint| {
        let CalibrationPoint {
            threshold,
            fmr,
            fnmr,
        } = point;
        format!(
            "{name:<12} {threshold:.3}   false match {:.3} %   false non-match {:.3} %\n",
            100.0 * fmr,
            100.0 * fnmr
        )
    };
    match now {
        Some(now) => text.push_str(&rates("in use", now)),
        None => text.push_str(&format!("in use       {threshold:.3}\n")),
    }
    if let Some(recommended) = recommended {
        text.push_str(&rates("recommended", recommended));
    }
    if let Some(caution) = calibration.caution {
        let (known, unknown) = (calibration.known_below, calibration.unknown_above);
        text.push_str(&format!(
            "caution      {caution}: known below {known:.3}, unknown above {unknown:.3}\n"
        ));
    }
    text.push_str(&format!("{reason}\n"));
    if let Some(recommended) = recommended.filter(|recommended| recommended.threshold != *threshold)
    {
        text.push_str(&format!(
            "to use it, set recognition.threshold = {:.2}\n",
            recommended.threshold
        ));
    }
    text
}

/// Draws bars over the distance; the threshold in use is marked below.
fn plot(title: &str, shares: &[f64], bins: &[f32], threshold: f32) -> String {
    const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = shares.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let mut text = format!("\n{title}\n");
    for row in (0..HEIGHT).rev() {
        let bar = |share: &f64| {
            let eighths = share / most * (8 * HEIGHT) as f64 - (8 * row) as f64;
            // A bar above zero is always visible.
            let least = if row == 0 && *share > 0.0 { 1.0 } else { 0.0 };
            EIGHTHS[eighths.round().clamp(least, 8.0) as usize]
        };
        let line: String = shares.iter().map(bar).collect();
        text.push_str(&format!("  {}\n", line.trim_end()));
    }
    let at = bins
        .partition_point(|edge| *edge <= threshold)
        .min(bins.len().saturating_sub(1));
    let last = bins.last().copied().unwrap_or_default();
    let axis: String = (0..bins.len())
        .map(|bin| if bin == at { '▲' } else { '─' })
        .collect();
    text.push_str(&format!(
        "  {axis}\n  0{:>width$}\n",
        format!("{last:.2}"),
        width = bins.len().saturating_sub(1)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_has_a_bar_for_each_bin_and_marks_the_threshold() {
        let text = plot(
            "pairs",
            &[0.0, 0.001, 0.999, 0.0],
            &[0.2, 0.4, 0.6, 0.8],
            0.5,
        );
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "pairs");
        assert_eq!(lines[2], "    █", "the fullest bin reaches to the top");
        assert_eq!(lines[1 + HEIGHT], "   ▁█", "and the least is seen");
        assert_eq!(lines[2 + HEIGHT], "  ──▲─");
        assert_eq!(lines[3 + HEIGHT], "  00.80");
    }
}

//! Stylesheet, script and icon, compiled in. Their URLs carry a hash of the content, so browsers
//! may cache them forever.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::api::request::fingerprint;
use crate::problem::Problem;

/// URLs for the templates.
pub struct Assets {
    /// Stylesheet.
    pub style: String,
    /// Script.
    pub script: String,
    /// Icon of the tab.
    pub icon: String,
}

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/app.js");
const ICON: &str = include_str!("assets/icon.svg");

/// The URLs of this build.
pub static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    style: format!("/assets/style-{}.css", fingerprint(STYLE.as_bytes())),
    script: format!("/assets/app-{}.js", fingerprint(SCRIPT.as_bytes())),
    icon: format!("/assets/icon-{}.svg", fingerprint(ICON.as_bytes())),
});

/// `GET /assets/{file}`.
pub async fn asset(Path(file): Path<String>) -> Response {
    let url = format!("/assets/{file}");
    let (kind, content) = match url {
        _ if url == ASSETS.style => ("text/css; charset=utf-8", STYLE),
        _ if url == ASSETS.script => ("text/javascript; charset=utf-8", SCRIPT),
        _ if url == ASSETS.icon => ("image/svg+xml", ICON),
        _ => {
            return Problem::not_found(
                "This build of kithd has no such file; load the page again.",
            )
            .into_response();
        }
    };
    (
        [
            (header::CONTENT_TYPE, kind),
            (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        ],
        content,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::STYLE;

    /// Returns the colours of a scheme: the custom properties of the first rule, overridden by
    /// those of the dark one.
    fn colours(dark: bool) -> HashMap<&'static str, [f64; 3]> {
        let (light, rest) = STYLE
            .split_once("@media (prefers-color-scheme: dark)")
            .unwrap();
        let texts = [
            light,
            if dark {
                rest.split_once("\n}").unwrap().0
            } else {
                ""
            },
        ];
        let declarations = texts.into_iter().flat_map(|text| text.split([';', '{']));
        let colours = declarations.filter_map(|one| {
            let (name, value) = one.trim().strip_prefix("--")?.split_once(": #")?;
            let channel =
                |at: usize| f64::from(u8::from_str_radix(&value[at..at + 2], 16).unwrap()) / 255.0;
            Some((name, [channel(0), channel(2), channel(4)]))
        });
        colours.collect()
    }

    /// Returns the contrast ratio as WCAG 2 defines it.
    fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
        let linear = |part: f64| {
            if part <= 0.04045 {
                part / 12.92
            } else {
                ((part + 0.055) / 1.055).powf(2.4)
            }
        };
        let luminance = |[red, green, blue]: [f64; 3]| {
            0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)
        };
        let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
        one.max(other) / one.min(other)
    }

    #[test]
    fn every_text_and_mark_has_contrast_in_light_and_dark() {
        // Pairs of text or mark and background in the stylesheet; WCAG AA requires 4.5 and 3.
        let written = [
            (
                "ink",
                "ground panel hover fresh none-ground bad-ground uncertain-ground",
            ),
            ("soft", "ground panel hover fresh"),
            ("accent", "ground panel hover fresh"),
            ("ground", "accent"),
            ("known", "known-ground panel"),
            ("uncertain", "uncertain-ground panel ground hover fresh"),
            ("unknown", "unknown-ground"),
            ("none", "none-ground"),
            ("bad", "bad-ground panel ground hover fresh"),
        ];
        let drawn = [
            ("focus", "ground panel"),
            ("field", "ground panel"),
            ("s1", "panel"),
            ("s2", "panel"),
            ("s3", "panel"),
            ("s4", "panel"),
            ("s5", "panel"),
        ];
        for dark in [false, true] {
            let colours = colours(dark);
            for (pairs, least) in [(&written[..], 4.5), (&drawn[..], 3.0)] {
                for (front, grounds) in pairs {
                    for ground in grounds.split(' ') {
                        let contrast = contrast(colours[front], colours[ground]);
                        assert!(
                            contrast >= least,
                            "--{front} on --{ground}, dark {dark}: {contrast:.2}, not {least}"
                        );
                    }
                }
            }
        }
        assert!((contrast([1.0; 3], [0.0; 3]) - 21.0).abs() < 0.001);
    }
}

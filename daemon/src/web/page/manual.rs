//! The documentation of this version as written, so that readers on the LAN need no internet. The
//! API's reference is in `reference`.

use askama::Template;
use axum::extract::{Path, State};

use super::{Frame, Page, Visit, filled, frame};
use crate::api::View;
use crate::problem::Problem;

/// Names and texts of `docs/`, in reading order.
macro_rules! texts {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../../docs/", $name, ".md")))),*]
    };
}

const TEXTS: [(&str, &str); 17] = texts![
    "install",
    "configuration",
    "pictures-in",
    "results-and-events",
    "people-and-strangers",
    "api",
    "access-and-tls",
    "operations",
    "troubleshooting",
    "several-boards",
    "gpu",
    "measurements",
    "glossary",
    "design/durability",
    "design/breaker",
    "design/schema",
    "design/jpeg",
];

#[derive(Template)]
#[template(path = "manual.html")]
struct ManualPage {
    frame: Frame,
    /// Name and title of each page.
    titles: Vec<(&'static str, &'static str)>,
    /// Name of the page that is shown.
    name: &'static str,
    /// Its Markdown text.
    text: &'static str,
}

/// `GET /docs`.
pub async fn first(State(web): State<View>, visit: Visit) -> Page {
    page(&web, visit, TEXTS[0])
}

/// `GET /docs/{name}`, with or without the file's extension.
pub async fn one(State(web): State<View>, visit: Visit, Path(name): Path<String>) -> Page {
    let name = name.trim_end_matches(".md");
    let found = TEXTS.iter().find(|(known, _)| *known == name);
    let text = found
        .ok_or_else(|| Problem::not_found("The documentation has no such page; see /docs."))?;
    page(&web, visit, *text)
}

fn page(web: &View, visit: Visit, (name, text): (&'static str, &'static str)) -> Page {
    let titles = TEXTS
        .iter()
        .map(|(name, text)| (*name, title(text)))
        .collect();
    Ok(filled(&ManualPage {
        frame: frame(web, visit, "docs"),
        titles,
        name,
        text,
    }))
}

/// Returns the heading of a text.
fn title(text: &str) -> &str {
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("# ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_of_docs_is_built_in() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
        for folder in ["", "design/"] {
            for entry in std::fs::read_dir(format!("{docs}/{folder}")).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if let Some(name) = name.strip_suffix(".md") {
                    let name = format!("{folder}{name}");
                    assert!(
                        TEXTS.iter().any(|(known, _)| *known == name),
                        "{name} is not built in"
                    );
                }
            }
        }
    }

    #[test]
    fn every_page_begins_with_its_title() {
        for (name, text) in TEXTS {
            assert!(text.starts_with("# ") && title(text).len() < 60, "{name}");
        }
    }
}

//! The documentation of this version, as pages: a reader on the LAN needs no internet for it.
//! Not for what the API takes; `api_docs` has that.

use askama::Template;
use axum::extract::{Path, State};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};

use super::{Frame, Page, Visit, filled, frame};
use crate::api::View;
use crate::problem::Problem;

/// Names and texts of files, in the order in which they are read.
macro_rules! texts {
    ($folder:literal: $($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../../", $folder, $name, ".md")))),*]
    };
}

const TEXTS: [(&str, &str); 28] = texts![
    "docs/":
    "install",
    "configuration",
    "pictures-in",
    "cameras",
    "frigate",
    "results-and-events",
    "notifications",
    "home-assistant",
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
    "design/results",
    "design/jpeg",
    "design/http-edge",
    "design/cameras",
    "design/bench",
    "design/sightings",
    "design/notifications",
    "design/fleet",
];

/// Pages outside `docs/` that those link to: how the figures were reached, packages, images,
/// tables.
const FURTHER: [(&str, &str); 9] = texts![
    "":
    "models/benches/README",
    "models/benches/accuracy",
    "models/benches/identification",
    "models/benches/quality",
    "models/benches/detector",
    "models/convert/README",
    "deploy/README",
    "yocto/README",
    "migrations/README",
];

#[derive(Template)]
#[template(path = "manual.html")]
struct ManualPage {
    frame: Frame,
    /// Name and title of each page of `docs/`.
    titles: Vec<(&'static str, &'static str)>,
    /// The same of the other ones.
    further: Vec<(&'static str, &'static str)>,
    /// Name of the page that is shown.
    name: &'static str,
    /// Its text, HTML.
    text: String,
}

/// `GET /docs`.
pub async fn first(State(view): State<View>, visit: Visit) -> Page {
    page(&view, visit, TEXTS[0])
}

/// `GET /docs/{name}`, with or without the file's extension.
pub async fn one(State(view): State<View>, visit: Visit, Path(name): Path<String>) -> Page {
    let text = found(name.trim_end_matches(".md"));
    let text =
        text.ok_or_else(|| Problem::not_found("The documentation has no such page; see /docs."))?;
    page(&view, visit, text)
}

fn found(name: &str) -> Option<(&'static str, &'static str)> {
    TEXTS
        .iter()
        .chain(&FURTHER)
        .find(|(known, _)| *known == name)
        .copied()
}

fn page(view: &View, visit: Visit, (name, text): (&'static str, &'static str)) -> Page {
    let titles = |texts: &[(&'static str, &'static str)]| {
        texts
            .iter()
            .map(|(name, text)| (*name, title(text)))
            .collect()
    };
    Ok(filled(&ManualPage {
        frame: frame(view, visit, "docs"),
        titles: titles(&TEXTS),
        further: titles(&FURTHER),
        name,
        text: rendered(name, text),
    }))
}

/// Returns the heading of a text.
fn title(text: &str) -> &str {
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("# ")
}

/// A page's Markdown as HTML. HTML in it is left out, as are pictures but for what stands in their
/// place and the alignment of columns, which would be inline style: the page's policy allows none.
/// A link to a page that is not built in becomes text.
fn rendered(name: &str, text: &str) -> String {
    let mut events = Vec::new();
    let mut linked = Vec::new();
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        let event = match event {
            Event::Html(_)
            | Event::InlineHtml(_)
            | Event::Start(Tag::HtmlBlock | Tag::Image { .. })
            | Event::End(TagEnd::HtmlBlock | TagEnd::Image) => continue,
            Event::Start(Tag::Table(_)) => Event::Start(Tag::Table(Vec::new())),
            Event::Start(Tag::Link {
                link_type,
                dest_url,
                title,
                id,
            }) => {
                let target = target(name, &dest_url);
                linked.push(target.is_some());
                let Some(target) = target else { continue };
                Event::Start(Tag::Link {
                    link_type,
                    dest_url: target.into(),
                    title,
                    id,
                })
            }
            Event::End(TagEnd::Link) if linked.pop() == Some(false) => continue,
            Event::End(TagEnd::Heading(level)) => {
                name_heading(&mut events);
                Event::End(TagEnd::Heading(level))
            }
            other => other,
        };
        events.push(event);
    }
    let mut rendered = String::with_capacity(2 * text.len());
    html::push_html(&mut rendered, events.into_iter());
    rendered
}

/// Gives the last heading the anchor that links to it have, as GitHub makes it.
fn name_heading(events: &mut [Event<'_>]) {
    let start = events
        .iter()
        .rposition(|event| matches!(event, Event::Start(Tag::Heading { .. })));
    let Some((Event::Start(Tag::Heading { id, .. }), inside)) =
        start.and_then(|start| events[start..].split_first_mut())
    else {
        return;
    };
    let words = inside.iter().filter_map(|event| match event {
        Event::Text(text) | Event::Code(text) => Some(text.to_lowercase()),
        _ => None,
    });
    let kept = |c: char| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ => c.is_alphanumeric().then_some(c),
    };
    *id = Some(
        words
            .flat_map(|word| word.chars().filter_map(kept).collect::<Vec<_>>())
            .collect::<String>()
            .into(),
    );
}

/// Returns the target of a link on this site; `None` if it leads to no page that is built in.
fn target(name: &str, link: &str) -> Option<String> {
    if link.starts_with('#') || link.starts_with("http://") || link.starts_with("https://") {
        return Some(link.into());
    }
    let (file, anchor) = link.split_at(link.find('#').unwrap_or(link.len()));
    // From the repository's top, where `docs/` is one folder of several.
    let docs = if TEXTS.iter().any(|(known, _)| *known == name) {
        "docs/"
    } else {
        ""
    };
    let here = format!("{docs}{name}");
    let mut parts: Vec<&str> = here.split('/').collect();
    parts.pop();
    for part in file.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    let path = path.strip_suffix(".md")?;
    let (page, _) = found(path.strip_prefix("docs/").unwrap_or(path))?;
    Some(format!("/docs/{page}{anchor}"))
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
    fn every_link_of_the_documentation_leads_to_a_page() {
        for (name, text) in TEXTS.into_iter().chain(FURTHER) {
            for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
                let Event::Start(Tag::Link { dest_url, .. }) = event else {
                    continue;
                };
                let to = target(name, &dest_url);
                let to = to.unwrap_or_else(|| panic!("{name}: {dest_url} is not built in"));
                let Some((page, anchor)) =
                    to.strip_prefix("/docs/").and_then(|to| to.split_once('#'))
                else {
                    continue;
                };
                let (page, text) = found(page).unwrap();
                assert!(
                    rendered(page, text).contains(&format!(" id=\"{anchor}\"")),
                    "{name}: {to}"
                );
            }
        }
    }

    #[test]
    fn a_page_is_html_without_html_or_style_of_its_own() {
        let text = "# A `b` C!\n\n<!-- x --><b>bold</b>\n\n![alt](p.png)\n\n| a | b |\n|--:|---|\n| <i> | [x](../y.md) |\n\n[z](../measurements.md#faults)\n";
        let html = rendered("design/breaker", text);
        assert!(
            html.contains("<h1 id=\"a-b-c\">A <code>b</code> C!</h1>"),
            "{html}"
        );
        assert!(
            html.contains("<td>x</td>")
                && html.contains("<a href=\"/docs/measurements#faults\">z</a>"),
            "{html}"
        );
        for left_out in ["<!--", "<b>", "<i>", "style=", "<img", "y.md"] {
            assert!(!html.contains(left_out), "{left_out}: {html}");
        }
        for (name, text) in TEXTS.into_iter().chain(FURTHER) {
            let html = rendered(name, text);
            assert!(
                !html.contains("style=") && !html.contains("<script"),
                "{name}"
            );
        }
    }

    #[test]
    fn every_page_begins_with_its_title() {
        for (name, text) in TEXTS.into_iter().chain(FURTHER) {
            assert!(text.starts_with("# ") && title(text).len() < 64, "{name}");
        }
    }
}

//! The API page: parameters and responses, made from the OpenAPI document.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::State;
use serde_json::{Map, Value};

use super::{Frame, Page, Visit, filled, frame};
use crate::api::View;

const METHODS: [&str; 6] = ["get", "post", "put", "patch", "delete", "head"];

#[derive(Template)]
#[template(path = "api_docs.html")]
struct ReferencePage {
    frame: Frame,
    about: Vec<(bool, String)>,
    /// Operations by tag, in the document's order.
    groups: Vec<Group>,
    /// Status and meaning of every error response: most operations share them.
    refusals: BTreeMap<String, String>,
}

struct Group {
    name: String,
    about: String,
    operations: Vec<Operation>,
}

/// Pieces of a sentence; true for code.
type Sentence = Vec<(bool, String)>;

struct Operation {
    method: String,
    path: String,
    summary: Sentence,
    /// Name, location, true if required, description.
    parameters: Vec<(String, String, bool, Sentence)>,
    /// Media types of the body.
    body: Vec<String>,
    /// Status and meaning of each success response.
    answers: Vec<(String, String)>,
    /// Statuses of the error responses.
    refusals: Vec<String>,
}

/// `GET /api`.
pub async fn show(State(view): State<View>, visit: Visit) -> Page {
    let nothing = Value::Null;
    let document = view.document.get().unwrap_or(&nothing);
    let groups = groups(document);
    let page = ReferencePage {
        frame: frame(&view, visit, "api"),
        about: pieces(&text(&document["info"]["description"])),
        refusals: refusals(document),
        groups,
    };
    Ok(filled(&page))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().trim().into()
}

/// Splits a text with `code` in it into pieces; true for code.
fn pieces(text: &str) -> Vec<(bool, String)> {
    let pieces = text
        .split('`')
        .enumerate()
        .map(|(place, piece)| (place % 2 == 1, piece.to_string()));
    pieces
        .filter(|(_, piece)| !piece.trim().is_empty())
        .collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn groups(document: &Value) -> Vec<Group> {
    let mut groups: Vec<Group> = list(&document["tags"])
        .iter()
        .map(|tag| Group {
            name: text(&tag["name"]),
            about: text(&tag["description"]),
            operations: Vec::new(),
        })
        .collect();
    for (path, methods) in fields(&document["paths"]) {
        let shared = list(&methods["parameters"]);
        for method in METHODS {
            let operation = &methods[method];
            if operation.is_null() {
                continue;
            }
            let tag = operation["tags"][0].as_str().unwrap_or("other");
            let place = groups
                .iter()
                .position(|group| group.name == tag)
                .unwrap_or_else(|| {
                    groups.push(Group {
                        name: tag.into(),
                        about: String::new(),
                        operations: Vec::new(),
                    });
                    groups.len() - 1
                });
            groups[place].operations.push(Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                summary: pieces(&format!(
                    "{} {}",
                    text(&operation["summary"]),
                    text(&operation["description"])
                )),
                parameters: shared
                    .iter()
                    .chain(list(&operation["parameters"]))
                    .map(parameter)
                    .collect(),
                body: fields(&operation["requestBody"]["content"])
                    .map(|(kind, _)| kind.clone())
                    .collect(),
                answers: fields(&operation["responses"])
                    .filter(|(status, _)| !is_bad(status))
                    .map(|(status, answer)| (status.clone(), text(&answer["description"])))
                    .collect(),
                refusals: fields(&operation["responses"])
                    .map(|(status, _)| status.clone())
                    .filter(|status| is_bad(status))
                    .collect(),
            });
        }
    }
    groups.retain(|group| !group.operations.is_empty());
    groups
}

fn is_bad(status: &str) -> bool {
    status.starts_with(['4', '5'])
}

fn refusals(document: &Value) -> BTreeMap<String, String> {
    let operations = fields(&document["paths"]).flat_map(|(_, methods)| fields(methods));
    let answers = operations.flat_map(|(_, operation)| fields(&operation["responses"]));
    let mut refusals = BTreeMap::new();
    for (status, answer) in answers.filter(|(status, _)| is_bad(status)) {
        refusals
            .entry(status.clone())
            .or_insert_with(|| text(&answer["description"]));
    }
    refusals
}

fn parameter(parameter: &Value) -> (String, String, bool, Vec<(bool, String)>) {
    let needed = parameter["required"].as_bool().unwrap_or_default();
    (
        text(&parameter["name"]),
        text(&parameter["in"]),
        needed,
        pieces(&text(&parameter["description"])),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_stand_below_their_tags_with_body_and_answers() {
        let document = serde_json::json!({
            "tags": [{"name": "people", "description": "Who is enrolled"}, {"name": "empty"}],
            "paths": {"/v1/people/{id}": {
                "parameters": [{"name": "id", "in": "path", "required": true, "description": "Number"}],
                "patch": {
                    "tags": ["people"], "summary": "Renames", "requestBody": {"content": {"application/json": {}}},
                    "responses": {"200": {"description": "The person"}, "404": {"description": "Nobody"}},
                },
            }},
        });
        let groups = groups(&document);
        assert_eq!(groups.len(), 1, "a tag without an operation is left out");
        let operation = &groups[0].operations[0];
        assert_eq!(
            (operation.method.as_str(), operation.path.as_str()),
            ("PATCH", "/v1/people/{id}")
        );
        assert_eq!(
            operation.parameters,
            [(
                "id".into(),
                "path".into(),
                true,
                vec![(false, "Number".into())]
            )]
        );
        assert_eq!(operation.body, ["application/json"]);
        assert_eq!(operation.answers, [("200".into(), "The person".into())]);
        assert_eq!(operation.refusals, ["404"]);
        assert_eq!(refusals(&document)["404"], "Nobody");
        assert_eq!(
            pieces("`a` and `b`."),
            [
                (true, "a".into()),
                (false, " and ".into()),
                (true, "b".into()),
                (false, ".".into())
            ]
        );
        assert!(super::groups(&Value::Null).is_empty());
    }
}

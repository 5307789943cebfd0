//! What the API takes and answers, as a page made from its OpenAPI document.

use askama::Template;
use axum::extract::State;
use serde_json::{Map, Value};

use super::{Frame, Page, Visit, filled, frame};
use crate::web::Web;

const METHODS: [&str; 6] = ["get", "post", "put", "patch", "delete", "head"];

#[derive(Template)]
#[template(path = "reference.html")]
struct ReferencePage {
    frame: Frame,
    about: String,
    /// By tag, in the document's order.
    groups: Vec<Group>,
}

struct Group {
    name: String,
    about: String,
    operations: Vec<Operation>,
}

struct Operation {
    method: String,
    path: String,
    summary: String,
    /// Name, where it stands, whether it must be given, what it is.
    parameters: Vec<(String, String, bool, String)>,
    /// Media types of the body.
    body: Vec<String>,
    answers: Vec<(String, String)>,
}

/// `GET /api`.
pub async fn show(State(web): State<Web>, visit: Visit) -> Page {
    let nothing = Value::Null;
    let document = web.document.get().unwrap_or(&nothing);
    let page = ReferencePage {
        frame: frame(&web, visit, "api"),
        about: text(&document["info"]["description"]),
        groups: groups(document),
    };
    Ok(filled(&page))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().trim().into()
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
        .map(|tag| Group { name: text(&tag["name"]), about: text(&tag["description"]), operations: Vec::new() })
        .collect();
    for (path, methods) in fields(&document["paths"]) {
        let shared = list(&methods["parameters"]);
        for method in METHODS {
            let operation = &methods[method];
            if operation.is_null() {
                continue;
            }
            let tag = operation["tags"][0].as_str().unwrap_or("other");
            let place = groups.iter().position(|group| group.name == tag).unwrap_or_else(|| {
                groups.push(Group { name: tag.into(), about: String::new(), operations: Vec::new() });
                groups.len() - 1
            });
            groups[place].operations.push(Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                summary: match text(&operation["description"]) {
                    about if about.is_empty() => text(&operation["summary"]),
                    about => format!("{} {about}", text(&operation["summary"])),
                },
                parameters: shared.iter().chain(list(&operation["parameters"])).map(parameter).collect(),
                body: fields(&operation["requestBody"]["content"]).map(|(kind, _)| kind.clone()).collect(),
                answers: fields(&operation["responses"])
                    .map(|(status, answer)| (status.clone(), text(&answer["description"])))
                    .collect(),
            });
        }
    }
    groups.retain(|group| !group.operations.is_empty());
    groups
}

fn parameter(parameter: &Value) -> (String, String, bool, String) {
    let needed = parameter["required"].as_bool().unwrap_or_default();
    (text(&parameter["name"]), text(&parameter["in"]), needed, text(&parameter["description"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_listed_below_their_tags_with_parameters_body_and_answers() {
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
        assert_eq!((operation.method.as_str(), operation.path.as_str()), ("PATCH", "/v1/people/{id}"));
        assert_eq!(operation.parameters, [("id".into(), "path".into(), true, "Number".into())]);
        assert_eq!(operation.body, ["application/json"]);
        assert_eq!(operation.answers[1], ("404".into(), "Nobody".into()));
        assert!(super::groups(&Value::Null).is_empty());
    }
}

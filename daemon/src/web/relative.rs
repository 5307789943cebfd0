//! Makes our addresses relative to the page they are on, so that a proxy may serve this board under
//! any path. Handlers and templates write them from the root, as routes are.
//!
//! The script uses the link that leads to the first page.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;

use crate::problem::Problem;

/// Depth of the deepest page; an address that pretends to be deeper must not grow without end.
const DEEPEST: usize = 8;
/// Beginnings of attributes with an address. Untrusted texts cannot match: their quotation marks
/// are escaped.
const ATTRIBUTES: [&str; 4] = [" href=\"", " src=\"", " action=\"", " formaction=\""];

/// The layer around all routes that make pages and redirections.
pub async fn relative(request: Request, next: Next) -> Response {
    let root = root(request.uri().path());
    let mut response = next.run(request).await;
    let place = response
        .headers()
        .get(header::LOCATION)
        .and_then(|place| place.to_str().ok());
    if let Some(below) = place.and_then(|place| place.strip_prefix('/'))
        && let Ok(place) = HeaderValue::from_str(&format!("{root}{below}"))
    {
        response.headers_mut().insert(header::LOCATION, place);
    }
    let html = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if !html {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // Our own pages are complete in memory already.
    let Some(page) = body
        .collect()
        .await
        .ok()
        .and_then(|page| String::from_utf8(page.to_bytes().into()).ok())
    else {
        return Problem::later("The page could not be completed.").into_response();
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(rooted(page, &root)))
}

/// Returns the relative address of the first page from a page at this path.
fn root(path: &str) -> String {
    match path.matches('/').count().saturating_sub(1) {
        0 => "./".into(),
        depth => "../".repeat(depth.min(DEEPEST)),
    }
}

fn rooted(page: String, root: &str) -> String {
    ATTRIBUTES.iter().fold(page, |page, attribute| {
        page.replace(&format!("{attribute}/"), &format!("{attribute}{root}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_the_same_place_under_any_path() {
        for (path, expected) in [
            ("/", "./"),
            ("/people", "./"),
            ("/people/7", "../"),
            ("/people/7/rename", "../../"),
            ("/people/", "../"),
            ("*", "./"),
        ] {
            assert_eq!(root(path), expected, "{path}");
        }
        assert_eq!(root(&"/".repeat(30_000)).len(), 3 * DEEPEST);
        let page = "<a href=\"/\"><img src=\"/v1/a.jpg\"></a><form action=\"/people?csrf=1\"><a href=\"#main\">/people</a>";
        let told = "<a href=\"../\"><img src=\"../v1/a.jpg\"></a><form action=\"../people?csrf=1\"><a href=\"#main\">/people</a>";
        assert_eq!(rooted(page.into(), "../"), told);
    }
}

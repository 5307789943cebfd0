//! `/v1/sightings`: who came, listed and shown.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::View;
use super::request::{Asked, limit, number, origin, rfc3339};
use crate::domain::{Outcome, SightingId};
use crate::problem::Problem;
use crate::store::{SightingFace, SightingFilter, SightingRow};

/// Faces in the answer about one sighting.
const FACES: usize = 200;

/// Filter for sightings, and position in the list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct SightingQuery {
    /// Only sightings that are this person, by number, or may be.
    #[param(minimum = 1)]
    person: Option<i64>,
    /// Only sightings of this source: a camera's name, or the way the images came in.
    #[param(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    source: Option<String>,
    /// Only sightings with this outcome.
    #[param(inline)]
    outcome: Option<Outcome>,
    /// Only sightings of this stranger, by number.
    #[param(minimum = 1)]
    stranger: Option<i64>,
    /// Only sightings that began at this moment of the board's clock or later: RFC 3339.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Only sightings that began before this moment.
    #[param(format = DateTime)]
    until: Option<String>,
    /// Most sightings in the answer; 50 by default.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next_cursor` of the previous page.
    #[param(minimum = 1)]
    cursor: Option<i64>,
}

/// A page of sightings.
#[derive(Serialize, ToSchema)]
pub struct SightingPage {
    /// Sightings, newest first.
    sightings: Vec<SightingRow>,
    /// Cursor of the next page; null on the last page.
    next_cursor: Option<SightingId>,
    /// True if there may be more matches than returned, because only a limited number of sightings
    /// is searched at a time: go on with `next_cursor`.
    unfinished: bool,
}

/// Lists sightings, newest first.
#[utoipa::path(get, operation_id = "sightings", path = "/v1/sightings", tag = "sightings", params(SightingQuery),
    responses((status = 200, body = SightingPage), Problem))]
pub async fn list(
    State(view): State<View>,
    query: Asked<SightingQuery>,
) -> Result<Json<SightingPage>, Problem> {
    let Asked(query) = query;
    let limit = limit(query.limit)?;
    let id = |name, id: Option<i64>| id.map(|id| number(id, name)).transpose();
    let moment = |text: Option<String>| text.map(|text| rfc3339(&text)).transpose();
    let filter = SightingFilter {
        person: id("person", query.person)?,
        source: origin("source", query.source)?,
        outcome: query.outcome,
        stranger: id("stranger", query.stranger)?,
        since_ms: moment(query.since)?,
        until_ms: moment(query.until)?,
        open: None,
    };
    let cursor = id("cursor", query.cursor)?;
    let found = view.store.find_sightings(filter, cursor, limit).await?;
    Ok(Json(SightingPage {
        sightings: found.sightings,
        next_cursor: found.next,
        unfinished: found.unfinished,
    }))
}

/// A sighting with the newest of its faces.
#[derive(Serialize, ToSchema)]
pub struct SightingDetail {
    /// The sighting.
    #[serde(flatten)]
    sighting: SightingRow,
    /// Faces of images, the newest first. Looks of a followed camera leave none.
    faces: Vec<SightingFace>,
}

/// Returns a sighting with the newest 200 of its faces.
#[utoipa::path(get, operation_id = "sighting", path = "/v1/sightings/{id}", tag = "sightings",
    params(("id" = String, Path, description = "The `sighting_id`.")),
    responses((status = 200, body = SightingDetail), Problem))]
pub async fn show(
    State(view): State<View>,
    id: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Json<SightingDetail>, Problem> {
    let Path(id) = id.map_err(|_| Problem::bad_request("The id of a sighting is text."))?;
    let found = view.store.sighting(&id, FACES).await?;
    let (sighting, faces) = found.ok_or_else(|| {
        let shown: String = id.chars().take(64).collect();
        Problem::not_found(format!(
            "There is no sighting \"{shown}\"; it may be too old."
        ))
    })?;
    Ok(Json(SightingDetail { sighting, faces }))
}

//! The timeline: who is here, and who was here, by day, person, source and outcome.

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use time::Date;
use time::macros::format_description;

use super::{Ago, Frame, Page, Visit, filled, frame, text, threshold, word};
use crate::api::View;
use crate::api::presence;
use crate::api::request::{moment, origin};
use crate::domain::{FaceAddress, Moment, Outcome, PersonId, SeenStranger, SightingId, StrangerId};
use crate::problem::Problem;
use crate::sightings::presence::{PersonPresence, Presence};
use crate::status::health::Condition;
use crate::store::{SightingFilter, SightingRow};
use crate::web::format;

const PER_PAGE: usize = 50;
/// People away who are shown beside those who are here.
const AWAY: usize = 6;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Largest difference of a zone to UTC, in minutes.
const ZONE: i64 = 15 * 60;

#[derive(Template)]
#[template(path = "timeline.html")]
struct TimelinePage {
    frame: Frame,
    /// Presence; only above the newest sightings.
    here: Option<Here>,
    ongoing: Vec<Visited>,
    /// The sightings that have ended, by the day on which they began.
    days: Vec<Day>,
    asked: Asked,
    /// The people to choose from.
    people: Vec<(PersonId, String)>,
    /// The sources to choose from.
    sources: Vec<String>,
    /// Addresses of the days beside the one that is asked for.
    beside: Option<(String, String)>,
    /// Set on older pages, which do not update themselves.
    before: Option<SightingId>,
    newest: String,
    older: Option<String>,
    /// True if not all older sightings were searched for this page.
    unfinished: bool,
    /// Message of the part that makes sightings, if it does not work.
    trouble: Option<String>,
}

/// Presence as it is shown.
struct Here {
    people: Vec<(PersonPresence, Ago)>,
    /// Sources with faces that are not known: the source, and the faces in words.
    others: Vec<(String, String)>,
    away: Vec<(PersonPresence, Ago)>,
}

/// A day with its sightings, in the zone that was asked for; the script makes it the reader's own.
struct Day {
    date: String,
    visits: Vec<Visited>,
}

/// A sighting as it is shown.
struct Visited {
    uid: String,
    source: String,
    outcome: Outcome,
    person: Option<(PersonId, String)>,
    stranger: Option<StrangerId>,
    /// Number of the stranger's visits, in words, and the time before.
    often: Option<(String, Option<Ago>)>,
    began: Moment,
    last: Ago,
    /// Duration; `None` for a single look.
    took: Option<String>,
    looks: String,
    open: bool,
    confidence: Option<(&'static str, String)>,
    face: Option<FaceAddress>,
    crop: bool,
}

/// The filter as it is in the form and the address. Its fields are text, so that empty fields are
/// valid and a mistake gets a sentence.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// A day as 2026-12-01.
    day: String,
    /// Minutes by which the zone of that day is ahead of UTC.
    zone: String,
    person: String,
    source: String,
    outcome: String,
    stranger: String,
    cursor: String,
}

/// `GET /sightings`: shows who is here, and the newest matching sightings or those before one.
pub async fn show(
    State(view): State<View>,
    visit: Visit,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Page {
    let Query(asked) =
        asked.map_err(|_| Problem::bad_request("Each field of the search can be given once."))?;
    let filter = asked.filter()?;
    let zone_ms = asked.zone_ms()?;
    let before = word::<SightingId>("cursor", &asked.cursor)?.filter(|id| *id > 0);
    let frame = frame(&view, visit, "sightings");
    let first = before.is_none();
    let threshold = threshold(&view);
    let shown = |row| Visited::new(row, threshold, &frame);
    let ongoing = match first {
        true => view.store.ongoing_sightings(filter.clone()).await?,
        false => Vec::new(),
    };
    let ended = SightingFilter {
        open: Some(false),
        ..filter
    };
    let found = view.store.find_sightings(ended, before, PER_PAGE).await?;
    let here = match first && !asked.anything() {
        true => Some(Here::new(presence::now(&view).await?, &frame)),
        false => None,
    };
    let mut sources = view.store.sighting_sources().await?;
    if !asked.source.is_empty() && !sources.contains(&asked.source) {
        sources.push(asked.source.clone());
    }
    let page = TimelinePage {
        here,
        ongoing: ongoing.into_iter().map(shown).collect(),
        days: by_day(found.sightings, zone_ms, shown),
        people: view.store.person_names().await?,
        sources,
        beside: asked.days_beside(),
        newest: asked.address(None),
        older: found.next.map(|next| asked.address(Some(next))),
        unfinished: found.unfinished,
        trouble: view
            .health
            .parts()
            .remove("sightings")
            .filter(|part| part.condition == Condition::Degraded)
            .map(|part| part.text),
        asked,
        before,
        frame,
    };
    Ok(filled(&page))
}

impl Asked {
    /// Returns true if any filter is set.
    fn anything(&self) -> bool {
        let filters = self.fields();
        filters
            .iter()
            .any(|(name, value)| *name != "zone" && !value.is_empty())
    }

    fn fields(&self) -> [(&'static str, &String); 6] {
        let Self {
            day,
            zone,
            person,
            source,
            outcome,
            stranger,
            cursor: _,
        } = self;
        [
            ("day", day),
            ("zone", zone),
            ("person", person),
            ("source", source),
            ("outcome", outcome),
            ("stranger", stranger),
        ]
    }

    /// Returns the address of a page with the same filter.
    fn address(&self, cursor: Option<SightingId>) -> String {
        super::address("/sightings", &self.fields(), cursor)
    }

    /// Returns the addresses of the day before and the day after.
    fn days_beside(&self) -> Option<(String, String)> {
        let day = format_description!("[year]-[month]-[day]");
        let date = Date::parse(&self.day, day).ok()?;
        let at = |date: Option<Date>| {
            let day = date?.format(day).ok()?;
            let asked = Self {
                day,
                ..self.clone()
            };
            Some(asked.address(None))
        };
        at(date.previous_day()).zip(at(date.next_day()))
    }

    /// Returns by how much the zone of the days is ahead of UTC.
    fn zone_ms(&self) -> Result<i64, Problem> {
        let zone = word::<i64>("zone", &self.zone)?.unwrap_or(0);
        Ok(zone.clamp(-ZONE, ZONE) * 60_000)
    }

    fn filter(&self) -> Result<SightingFilter, Problem> {
        let since_ms = match self.day.as_str() {
            "" => None,
            day => Some(moment(day)? - self.zone_ms()?),
        };
        Ok(SightingFilter {
            person: word("person", &self.person)?,
            source: origin("source", text(&self.source))?,
            outcome: word("outcome", &self.outcome)?,
            stranger: word("stranger", &self.stranger)?,
            since_ms,
            until_ms: since_ms.map(|since_ms| since_ms + DAY_MS),
            open: None,
        })
    }

    /// Returns true if the form has this value selected.
    fn is(&self, field: &str, value: impl std::fmt::Display) -> bool {
        super::has(&self.fields(), field, value)
    }
}

impl Here {
    fn new(now: Presence, frame: &Frame) -> Self {
        let (here, away): (Vec<_>, Vec<_>) = now.people.into_iter().partition(|one| one.present);
        let others = now
            .sources
            .into_iter()
            .filter_map(|source| Some((unnamed(source.uncertain, source.unknown)?, source.source)))
            .map(|(words, source)| (source, words))
            .collect();
        let since = |one: PersonPresence| {
            let ago = frame.ago(one.since_ms);
            (one, ago)
        };
        let seen = |one: PersonPresence| {
            let ago = frame.ago(one.last_ms);
            (one, ago)
        };
        Self {
            people: here.into_iter().map(since).collect(),
            others,
            away: away.into_iter().take(AWAY).map(seen).collect(),
        }
    }

    /// Returns true if no face is seen now.
    fn is_empty(&self) -> bool {
        self.people.is_empty() && self.others.is_empty()
    }
}

impl Visited {
    fn new(row: SightingRow, threshold: Option<f32>, frame: &Frame) -> Self {
        let state = row.state;
        let confidence = state.distance.map(|distance| {
            let distance = f64::from(distance);
            let word = format::confidence(state.outcome, distance, threshold);
            (word, format::distance(distance))
        });
        let known = state.outcome == Outcome::Known;
        let stranger = state.stranger.filter(|_| !known);
        let took_ms = row.last_ms - row.began_ms;
        Self {
            uid: row.uid,
            source: row.source,
            outcome: state.outcome,
            person: state.person.map(|person| (person.person_id, person.name)),
            stranger: stranger.as_ref().map(|stranger| stranger.number),
            often: stranger.map(|stranger| {
                let before = stranger.before_ms.map(|at| frame.ago(at));
                (often(&stranger), before)
            }),
            began: Moment::from_ms(row.began_ms),
            last: frame.ago(row.last_ms),
            took: (took_ms >= 1000).then(|| format::span(took_ms)),
            looks: format::counted(state.looks.into(), "look", "looks"),
            open: row.ended_ms.is_none(),
            confidence: confidence.filter(|_| state.outcome != Outcome::Unknown),
            face: state.face,
            crop: row.crop,
        }
    }
}

/// Groups sightings by the day on which they began, in their order: where the board's clock was set
/// back, a day may come twice.
fn by_day(
    rows: Vec<SightingRow>,
    zone_ms: i64,
    shown: impl Fn(SightingRow) -> Visited,
) -> Vec<Day> {
    let mut days = Vec::<Day>::new();
    for row in rows {
        let began = Moment::from_ms(row.began_ms.saturating_add(zone_ms));
        let visit = shown(row);
        match days.last_mut().filter(|day| day.date == began.date()) {
            Some(day) => day.visits.push(visit),
            None => days.push(Day {
                date: began.date().to_owned(),
                visits: vec![visit],
            }),
        }
    }
    days
}

/// Returns the faces that are no person for sure, in words; `None` if there are none.
fn unnamed(uncertain: u32, unknown: u32) -> Option<String> {
    let some = |number: u32, kind: &str| {
        let one = format!("{kind} face");
        let more = format!("{kind} faces");
        (number > 0).then(|| format::counted(number.into(), &one, &more))
    };
    let kinds = [some(uncertain, "uncertain"), some(unknown, "unknown")];
    let kinds: Vec<_> = kinds.into_iter().flatten().collect();
    (!kinds.is_empty()).then(|| kinds.join(" and "))
}

/// Returns how often a stranger came, in words: "third time this week".
fn often(stranger: &SeenStranger) -> String {
    let time = |number: u32| format!("{} time", format::ordinal(number));
    match (stranger.sightings, stranger.this_week) {
        (1, _) => "first time".into(),
        (all, week) if all == week => format!("{} this week", time(week)),
        (all, 1) => format!("{} in all", time(all)),
        (all, week) => format!("{} this week, {} in all", time(week), time(all)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_s_visits_are_said_as_people_say_them() {
        let said = |sightings, this_week| {
            often(&SeenStranger {
                number: 12,
                sightings,
                this_week,
                before_ms: None,
            })
        };
        assert_eq!(said(1, 1), "first time");
        assert_eq!(said(3, 3), "third time this week");
        assert_eq!(said(9, 1), "ninth time in all");
        assert_eq!(said(22, 2), "second time this week, 22nd time in all");
        assert_eq!(unnamed(0, 0), None);
        assert_eq!(
            unnamed(1, 2).as_deref(),
            Some("1 uncertain face and 2 unknown faces")
        );
    }

    #[test]
    fn a_day_is_the_reader_s_own_and_stays_in_the_links() {
        let asked = Asked {
            day: "1970-01-02".into(),
            zone: "300".into(),
            source: "front".into(),
            ..Asked::default()
        };
        let filter = asked.filter().unwrap();
        assert_eq!(filter.since_ms, Some(DAY_MS - 5 * 3_600_000));
        assert_eq!(filter.until_ms, Some(2 * DAY_MS - 5 * 3_600_000));
        let (before, after) = asked.days_beside().unwrap();
        assert_eq!(before, "/sightings?day=1970-01-01&zone=300&source=front");
        assert_eq!(after, "/sightings?day=1970-01-03&zone=300&source=front");
        assert!(asked.anything());
        let zone = Asked {
            zone: "300".into(),
            ..Asked::default()
        };
        assert!(!zone.anything());
    }
}

//! Sub labels: who was known in the pictures of an event becomes its name in Frigate.
//!
//! Derived from the rows of the images, so that it survives restarts. An image is considered once;
//! an event is named again only by a better score.

use std::collections::BTreeMap;

use super::event::Event;
use crate::config;
use crate::domain::{Certainty, ImageId};
use crate::store::Unlabelled;

/// What is to be done about the images of one event.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Event.
    pub event: String,
    /// Its images.
    pub images: Vec<ImageId>,
    /// Image, name and score to send; `None`: nothing is, the images are only marked.
    pub send: Option<(ImageId, String, f64)>,
}

/// Decides for each event. `clock`: Frigate's; `under_way`: the event has not ended.
pub fn decide(
    unlabelled: Vec<Unlabelled>,
    settings: &config::Frigate,
    threshold: Option<f32>,
    clock: f64,
    under_way: impl Fn(&str) -> bool,
) -> Vec<Decision> {
    let mut events: BTreeMap<String, Vec<Unlabelled>> = BTreeMap::new();
    for image in unlabelled {
        events.entry(image.event.clone()).or_default().push(image);
    }
    let decide = |(event, images): (String, Vec<Unlabelled>)| {
        let age = Event::start_of(&event).map(|start| clock - start);
        let is_news =
            under_way(&event) || age.is_some_and(|age| age <= settings.news.as_secs_f64());
        let sent = images.first().and_then(|image| image.sent).unwrap_or(0.0);
        let best = images
            .iter()
            .filter(|image| Some(Certainty::of(image.distance, threshold)) >= settings.sub_label)
            .filter_map(|image| {
                let name = image.name.clone()?;
                Some((
                    image.image,
                    name,
                    Certainty::score(image.distance, threshold),
                ))
            })
            .max_by(|a, b| a.2.total_cmp(&b.2))
            .filter(|(_, _, score)| *score > sent);
        Decision {
            images: images.iter().map(|image| image.image).collect(),
            send: best.filter(|_| is_news && settings.sub_label.is_some()),
            event,
        }
    };
    events.into_iter().map(decide).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Raw};

    fn settings(more: &str) -> config::Frigate {
        let text = format!("[frigate]\nurl = \"http://frigate:5000\"\n{more}");
        Config::check(Raw::parse(&text)).0.unwrap().frigate.unwrap()
    }

    fn image(image: ImageId, name: Option<&str>, distance: f64, sent: Option<f64>) -> Unlabelled {
        Unlabelled {
            image,
            event: "1000.5-abc".into(),
            name: name.map(String::from),
            distance,
            sent,
        }
    }

    fn sent(images: &[Unlabelled], more: &str, clock: f64) -> Option<(ImageId, String, f64)> {
        let decisions = decide(images.to_vec(), &settings(more), Some(0.6), clock, |_| {
            false
        });
        assert_eq!(decisions.len(), 1);
        assert_eq!(
            decisions[0].images.len(),
            images.len(),
            "one would come again"
        );
        decisions[0].send.clone()
    }

    #[test]
    fn the_best_image_names_its_event_and_only_a_better_one_again() {
        let images = [
            image(1, Some("Anna"), 0.5, None),
            image(2, Some("Anna"), 0.3, None),
            image(3, Some("Ben"), 0.4, None),
        ];
        assert_eq!(sent(&images, "", 1100.0), Some((2, "Anna".into(), 0.75)));
        let later = |distance| [image(4, Some("Anna"), distance, Some(0.75))];
        assert_eq!(sent(&later(0.3), "", 1100.0), None);
        assert_eq!(
            sent(&later(0.24), "", 1100.0),
            Some((4, "Anna".into(), 0.8))
        );
    }

    #[test]
    fn old_unsure_and_ambiguous_images_name_no_event() {
        let one = [image(1, Some("Anna"), 0.5, None)];
        assert!(sent(&one, "", 1100.0).is_some());
        assert_eq!(sent(&one, "", 5000.0), None, "it is no news");
        assert_eq!(sent(&one, "certainty = \"almost certain\"\n", 1100.0), None);
        assert!(sent(&one, "certainty = \"very likely\"\n", 1100.0).is_some());
        assert_eq!(sent(&one, "sub_label = false\n", 1100.0), None);
        assert_eq!(sent(&[image(1, None, 0.1, None)], "", 1100.0), None);
        let long = decide(one.to_vec(), &settings(""), Some(0.6), 5000.0, |_| true);
        assert!(long[0].send.is_some(), "it is under way still");
    }
}

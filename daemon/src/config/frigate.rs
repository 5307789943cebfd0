//! The section `[frigate]`: Frigate as a camera system.

use std::path::PathBuf;
use std::time::Duration;

use kith_mqtt::is_topic;

use super::url::trust;
use super::{Raw, credential, secs};
use crate::domain::{Certainty, Origin};
use crate::http_client::{self, Address, Trust};

/// Name of the systemd credential with the password, used if `frigate.password_file` is not set.
const PASSWORD_CREDENTIAL: &str = "kithd.frigate-password";

/// Settings of one Frigate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frigate {
    /// Its address.
    pub address: Address,
    /// Path below which its API is, without the last slash.
    pub base: String,
    /// Certificates of an encrypted connection.
    pub trust: Trust,
    /// User, if it wants a login.
    pub username: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// First part of its MQTT topics.
    pub topic_prefix: String,
    /// Kinds of tracked objects whose pictures are taken.
    pub labels: Vec<String>,
    /// Names of the cameras; none means all.
    pub cameras: Vec<String>,
    /// Time between two looks at an event.
    pub every: Duration,
    /// Most pictures of an event.
    pub pictures: u32,
    /// Age up to which an event is fetched and labelled.
    pub news: Duration,
    /// Certainty from which on a name becomes the event's sub label; `None`: never.
    pub sub_label: Option<Certainty>,
}

impl Frigate {
    /// Returns the topic of its events.
    pub fn events(&self) -> String {
        format!("{}/events", self.topic_prefix)
    }
}

/// Reads the section; `None` without `frigate.url`.
pub(super) fn frigate(raw: &mut Raw) -> Option<Frigate> {
    let url = raw.text("frigate.url");
    let username = raw.text("frigate.username");
    let password_file = password_file(raw, username.as_deref());
    let https = url.as_deref().is_some_and(|url| {
        let scheme = url.split("://").next().unwrap_or_default();
        scheme.trim().eq_ignore_ascii_case("https")
    });
    let trust = trust(raw, "frigate.", "frigate.url", https);
    let topic_prefix = raw
        .text("frigate.topic_prefix")
        .unwrap_or_else(|| "frigate".into());
    if !is_topic(&topic_prefix) || topic_prefix.starts_with('$') || topic_prefix.ends_with('/') {
        raw.problem(
            "frigate.topic_prefix",
            format!("{topic_prefix:?}"),
            "must be a topic without + or #, as mqtt.topic_prefix in Frigate's configuration",
        );
    }
    let labels = raw.texts("frigate.labels");
    let labels = labels.unwrap_or_else(|| vec!["person".into()]);
    if labels.is_empty() || labels.iter().any(|label| label.trim().is_empty()) {
        let rule = "must name at least one kind of tracked object, for example [\"person\"]";
        raw.problem("frigate.labels", format!("{labels:?}"), rule);
    }
    let cameras = raw.texts("frigate.cameras").unwrap_or_default();
    for camera in cameras.iter().filter(|camera| !Origin::is_valid(camera)) {
        let rule = "must be the name of a camera in Frigate's configuration";
        raw.problem("frigate.cameras", format!("{camera:?}"), rule);
    }
    let every = raw.duration(
        "frigate.every",
        secs(1),
        Duration::from_millis(200)..=secs(600),
    );
    let pictures = raw.number("frigate.pictures", 10, 1..=1000);
    let news = raw.duration("frigate.news", secs(3600), secs(10)..=secs(7 * 86_400));
    let sub_label = raw.flag("frigate.sub_label", true);
    let certainty = raw.text("frigate.certainty");
    let certainty = certainty.map_or(Certainty::Likely, |text| {
        text.parse().unwrap_or_else(|rule: String| {
            raw.problem("frigate.certainty", format!("{text:?}"), rule);
            Certainty::Likely
        })
    });
    let (address, base) = address(raw, &url?)?;
    Some(Frigate {
        address,
        base,
        trust,
        username,
        password_file,
        topic_prefix,
        labels,
        cameras,
        every,
        pictures: u32::try_from(pictures).unwrap_or(u32::MAX),
        news,
        sub_label: sub_label.then_some(certainty),
    })
}

/// Reads the address; a login in it is refused and never shown.
fn address(raw: &mut Raw, url: &str) -> Option<(Address, String)> {
    match http_client::parse(url) {
        Ok((_, _, Some(_))) => {
            let rule = "must have no user and password: write frigate.username and \
                        frigate.password_file";
            raw.problem("frigate.url", "", rule);
            None
        }
        Ok((_, path, None)) if path.contains('?') => {
            raw.problem("frigate.url", "", "must have no query (no ?)");
            None
        }
        Ok((address, path, None)) => Some((address, path.trim_end_matches('/').into())),
        Err(_) => {
            let rule = "must be the address of Frigate, for example \"http://frigate:5000\"";
            raw.problem("frigate.url", "", rule);
            None
        }
    }
}

/// Reads where the password is. The file itself is read at each login: it may be replaced.
fn password_file(raw: &mut Raw, username: Option<&str>) -> Option<PathBuf> {
    let named = raw.text("frigate.password_file").map(PathBuf::from);
    if let (Some(file), None) = (&named, username) {
        let rule = "needs frigate.username as well";
        raw.problem("frigate.password_file", file.display(), rule);
    }
    let file = named.or_else(|| username.and_then(|_| credential(PASSWORD_CREDENTIAL)));
    if let (None, Some(username)) = (&file, username) {
        let rule = "needs frigate.password_file as well, or systemd's credential \
                    kithd.frigate-password";
        raw.problem("frigate.username", format!("{username:?}"), rule);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn problems(text: &str) -> String {
        let problems = Config::check(Raw::parse(text)).0.unwrap_err();
        Config::problems_text(None, &problems)
    }

    #[test]
    fn an_address_is_all_that_frigate_needs() {
        let checked = |text: &str| Config::check(Raw::parse(text)).0.unwrap().frigate;
        assert_eq!(checked(""), None);
        let frigate = checked("[frigate]\nurl = \"http://frigate:5000/\"\n").unwrap();
        assert_eq!(frigate.address.to_string(), "http://frigate:5000");
        assert_eq!((frigate.base.as_str(), frigate.pictures), ("", 10));
        assert_eq!((frigate.every, frigate.news), (secs(1), secs(3600)));
        assert_eq!(frigate.labels, ["person"]);
        assert_eq!(frigate.events(), "frigate/events");
        assert_eq!(frigate.sub_label, Some(Certainty::Likely));
        let below = checked(
            "[frigate]\nurl = \"https://nvr/cameras/\"\nsub_label = false\n\
             topic_prefix = \"site/nvr\"\n",
        );
        let below = below.unwrap();
        assert_eq!((below.base.as_str(), below.sub_label), ("/cameras", None));
        assert_eq!(below.events(), "site/nvr/events");
    }

    #[test]
    fn frigates_password_is_hidden_from_programs_of_cameras() {
        let text = "[frigate]\nurl = \"http://frigate\"\nusername = \"kithd\"\n\
                    password_file = \"/etc/frigate.password\"\n";
        let config = Config::check(Raw::parse(text)).0.unwrap();
        assert_eq!(
            config.secret_files(),
            [PathBuf::from("/etc/frigate.password")]
        );
    }

    #[test]
    fn what_is_wrong_with_frigate_is_said_without_its_password() {
        let text = problems(
            "[frigate]\nurl = \"http://anna:s3cret@frigate\"\nlabels = []\n\
             cameras = [\"front door\"]\ncertainty = \"sure\"\nca_file = \"/etc/ca.pem\"\n\
             username = \"kithd\"\ntopic_prefix = \"a/#\"\npictures = 0\n",
        );
        for part in [
            "frigate.url: must have no user and password",
            "frigate.labels = []: must name",
            "frigate.cameras = \"front door\": must be the name",
            "frigate.certainty = \"sure\": must be",
            "frigate.ca_file = /etc/ca.pem: is for an encrypted connection",
            "frigate.username = \"kithd\": needs frigate.password_file",
            "frigate.topic_prefix = \"a/#\": must be",
            "frigate.pictures = 0: must be",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        assert!(!text.contains("s3cret"), "{text}");
        let text = problems("[frigate]\nurl = \"frigate:5000\"\npassword_file = \"/nowhere\"\n");
        assert!(
            text.contains("for example \"http://frigate:5000\"")
                && text.contains("/nowhere: needs frigate.username"),
            "{text}"
        );
    }
}

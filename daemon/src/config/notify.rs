//! The sections `[[notify]]`: targets of notifications, which sightings they are told, and in which
//! words. The words of a message are made in `sinks::notify`.

use std::path::PathBuf;
use std::time::Duration;

use super::camera::Secret;
use super::url::trust;
use super::{Http, PasswordFile, Raw, Tls, credential, secs};
use crate::domain::Origin;
use crate::http_client::{self, Address, Trust};
use crate::names;

/// Most targets.
const MOST: usize = 32;
/// Most characters of a title or a text as typed.
const LONGEST_TEMPLATE: usize = 500;
/// Longest time after which a target may be told of the same person or stranger again.
const LONGEST_AGAIN: Duration = secs(7 * 86_400);
const MINUTES_OF_A_DAY: u16 = 24 * 60;

/// A target of notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Name in health and commands.
    pub name: String,
    /// Kind of target.
    pub service: Service,
    /// Its server.
    pub address: Address,
    /// Path and query on that server; a topic of ntfy is a secret, and so are many paths.
    pub path: Secret,
    /// User and password.
    pub login: Option<PasswordFile>,
    /// File with a bearer token.
    pub token_file: Option<PathBuf>,
    /// Certificates of an encrypted connection.
    pub trust: Trust,
    /// Sightings that are told, by their identity.
    pub who: Who,
    /// Sources whose sightings are told; none means all.
    pub sources: Vec<String>,
    /// Hours of the day in which sightings are told; none means always.
    pub hours: Vec<Hours>,
    /// Time during which the same person or stranger is not told again.
    pub again_after: Duration,
    /// Picture that goes with it.
    pub attach: Attach,
    /// Title.
    pub title: Template,
    /// Text.
    pub text: Template,
    /// Time that a face has to become known before it is told as another one.
    pub wait: Duration,
    /// Age at which a notification that could not be sent is given up.
    pub expires: Duration,
    /// Address of kithd's page without the last slash, for a link.
    pub page: Option<String>,
}

impl Notify {
    /// Returns the files with its secrets.
    pub fn secret_files(&self) -> impl Iterator<Item = &PathBuf> {
        let secret_file = match &self.service {
            Service::Webhook { secret_file } => secret_file.as_ref(),
            Service::Ntfy { .. } => None,
        };
        let password_file = self.login.as_ref().and_then(|login| login.file.as_ref());
        let files = [secret_file, password_file, self.token_file.as_ref()];
        files.into_iter().flatten()
    }
}

/// Kinds of targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// An address that takes JSON.
    Webhook {
        /// File with the secret of the signature.
        secret_file: Option<PathBuf>,
    },
    /// A topic of an ntfy server.
    Ntfy {
        /// 1 to 5; `None`: the server's.
        priority: Option<u64>,
    },
}

impl Service {
    /// Returns its key in the configuration.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Webhook { .. } => "webhook",
            Self::Ntfy { .. } => "ntfy",
        }
    }
}

/// Identities that are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    /// Every known person.
    pub known: bool,
    /// Faces that may be a person.
    pub uncertain: bool,
    /// Unknown faces.
    pub unknown: bool,
    /// Strangers who were seen before.
    pub returning: bool,
    /// Known people of these names, in the form for comparison.
    pub names: Vec<String>,
}

/// Hours of the day: minutes since midnight, the first included, the last not; over midnight if the
/// last is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    from: u16,
    to: u16,
}

impl Hours {
    /// Parses "22:00-06:00".
    fn parse(text: &str) -> Option<Self> {
        let minute = |text: &str| {
            let (hours, minutes) = text.trim().split_once(':')?;
            let number = |text: &str| {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                (digits && (1..=2).contains(&text.len())).then(|| text.parse::<u16>().ok())?
            };
            let (hours, minutes) = (number(hours)?, number(minutes)?);
            let minute = 60 * hours + minutes;
            (minutes < 60 && minute <= MINUTES_OF_A_DAY).then_some(minute)
        };
        let (from, to) = text.split_once('-')?;
        let (from, to) = (minute(from)?, minute(to)?);
        (from != to && from < MINUTES_OF_A_DAY).then_some(Self { from, to })
    }

    /// Returns whether a minute of the day lies in it.
    pub fn hold(&self, minute: u16) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

/// Pictures that go with a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// None.
    Nothing,
    /// The best face.
    Face,
    /// The whole picture of the best face.
    Picture,
}

/// Places in a title or text that are filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// Identity in words.
    Who,
    /// Source.
    Source,
    /// Time of the day, by the board's clock and time zone.
    Time,
    /// Date, by the same.
    Date,
    /// Name of the board.
    Device,
    /// Known, uncertain or unknown.
    Outcome,
    /// The number of a stranger's visits, as a sentence; empty for others.
    History,
}

impl Placeholder {
    const ALL: [(&'static str, Self); 7] = [
        ("who", Self::Who),
        ("source", Self::Source),
        ("time", Self::Time),
        ("date", Self::Date),
        ("device", Self::Device),
        ("outcome", Self::Outcome),
        ("history", Self::History),
    ];
}

/// A title or text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(Placeholder),
}

impl Template {
    /// Parses a text; the error is the rule that it breaks.
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() || text.chars().count() > LONGEST_TEMPLATE {
            return Err(format!("must have 1 to {LONGEST_TEMPLATE} characters"));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let known = || {
                Placeholder::ALL
                    .map(|(name, _)| format!("{{{name}}}"))
                    .join(", ")
            };
            let (before, place) = rest.split_at(at);
            let Some((name, after)) = place
                .strip_prefix('{')
                .and_then(|place| place.split_once('}'))
            else {
                return Err(format!(
                    "has a brace without its other one; {} are filled in",
                    known()
                ));
            };
            let found = Placeholder::ALL.iter().find(|(word, _)| *word == name);
            let Some((_, place)) = found else {
                let rule = format!("{{{name}}} is not known; these are filled in: {}", known());
                return Err(rule);
            };
            pieces.push(Piece::Text(before.into()));
            pieces.push(Piece::Place(*place));
            rest = after;
        }
        pieces.push(Piece::Text(rest.into()));
        Ok(Self(pieces))
    }

    /// Returns the text with every place filled in, of at most `longest` characters.
    pub fn fill(&self, longest: usize, value: impl Fn(Placeholder) -> String) -> String {
        let mut filled = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Place(place) => filled.push_str(&value(*place)),
            }
        }
        let visible = |c: &char| *c == '\n' || !c.is_control();
        let filled: String = filled.trim().chars().filter(visible).collect();
        filled.chars().take(longest).collect()
    }
}

/// Reads all sections.
pub(super) fn targets(raw: &mut Raw, http: &Http) -> Vec<Notify> {
    let mut targets: Vec<Notify> = Vec::new();
    for (at, mut table) in raw.tables("notify").into_iter().enumerate() {
        if at == MOST {
            table.problem(
                "name",
                "",
                format!("is one too many; {MOST} targets are allowed"),
            );
        }
        let name = name(&mut table);
        if targets.iter().any(|other| other.name == name) {
            let rule = "is the name of another target; give each its own";
            table.problem("name", format!("{name:?}"), rule);
        }
        let target = target(&mut table, name, http);
        raw.merge("notify", at, table);
        targets.extend(target);
    }
    targets
}

fn name(raw: &mut Raw) -> String {
    let name = raw.text("name").unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        let rule = "must be 1 to 64 letters, digits, - or _, for example \"phone\"";
        raw.problem("name", format!("{name:?}"), rule);
    }
    name
}

fn target(raw: &mut Raw, name: String, http: &Http) -> Option<Notify> {
    let (webhook, ntfy) = (raw.text("webhook"), raw.text("ntfy"));
    let secret_file = raw.text("secret_file").map(PathBuf::from);
    let priority = raw.optional_number("priority", 1..=5);
    let (key, url) = match (webhook, ntfy) {
        (Some(url), None) => ("webhook", url),
        (None, Some(url)) => ("ntfy", url),
        (Some(_), Some(_)) => {
            let rule = "names a second address beside webhook; write a section for each";
            raw.problem("ntfy", "", rule);
            ("webhook", String::new())
        }
        (None, None) => {
            let rule = "or ntfy must be set, for example webhook = \"http://127.0.0.1:1880/kithd\" \
                        or ntfy = \"https://ntfy.sh/topic\"";
            raw.problem("webhook", "", rule);
            ("webhook", String::new())
        }
    };
    let other = if key == "ntfy" {
        secret_file.as_ref().map(|_| "secret_file")
    } else {
        priority.map(|_| "priority")
    };
    if let Some(other) = other {
        raw.problem(other, "", format!("has no meaning for {key}; leave it out"));
    }
    let service = if key == "ntfy" {
        Service::Ntfy { priority }
    } else {
        let secret_file = secret_file.or_else(|| secret(&name, "secret"));
        Service::Webhook { secret_file }
    };
    let address = if url.is_empty() {
        None
    } else {
        address(raw, key, &url)
    };
    let (login, token_file) = access(raw, &name);
    // Nothing is said of a scheme that is wrong anyway.
    let https = address.as_ref().is_none_or(|(address, _)| address.https);
    let trust = trust(raw, "", key, https);
    let who = who(raw);
    let sources = raw.texts("sources").unwrap_or_default();
    for source in sources.iter().filter(|source| !Origin::is_valid(source)) {
        let rule = "must be the name of a camera, or http, mqtt or folder";
        raw.problem("sources", format!("{source:?}"), rule);
    }
    let hours = hours(raw);
    let again_after = raw.duration("again_after", secs(600), secs(0)..=LONGEST_AGAIN);
    let attach = attach(raw);
    let title = template(raw, "title", "{who}");
    let text = template(raw, "text", "{source}, {time}. {history}");
    let wait = raw.duration("wait", secs(10), secs(0)..=secs(600));
    let expires = raw.duration("expires", secs(3600), secs(10)..=LONGEST_AGAIN);
    let page = page(raw, http);
    let (address, path) = address?;
    Some(Notify {
        name,
        service,
        address,
        path: Secret(path),
        login,
        token_file,
        trust,
        who,
        sources,
        hours,
        again_after,
        attach,
        title,
        text,
        wait,
        expires,
        page,
    })
}

/// Reads the address; a login in it is refused and never shown, nor is the path.
fn address(raw: &mut Raw, key: &str, url: &str) -> Option<(Address, String)> {
    match http_client::parse(url) {
        Ok((_, _, Some(_))) => {
            let rule = "must have no user and password: write username and password_file";
            raw.problem(key, "", rule);
            None
        }
        Ok((_, path, None)) if key == "ntfy" && (path == "/" || path.contains('?')) => {
            let rule = "must be the address of a topic, for example \"https://ntfy.sh/topic\"";
            raw.problem(key, "", rule);
            None
        }
        Ok((address, path, None)) => Some((address, path)),
        Err(rule) => {
            raw.problem(key, "", rule);
            None
        }
    }
}

/// Returns the credential that systemd passes for a target, if it does.
fn secret(name: &str, what: &str) -> Option<PathBuf> {
    credential(&format!("kithd.notify-{name}-{what}"))
}

/// Reads login and token. The files are read whenever something is sent: they may be replaced.
fn access(raw: &mut Raw, name: &str) -> (Option<PasswordFile>, Option<PathBuf>) {
    let user = raw.text("username");
    let file = raw.text("password_file").map(PathBuf::from);
    let token_file = raw.text("token_file").map(PathBuf::from);
    let token_file = token_file.or_else(|| secret(name, "token"));
    if let (Some(file), None) = (&file, &user) {
        raw.problem("password_file", file.display(), "needs username as well");
    }
    if let (Some(user), Some(_)) = (&user, &token_file) {
        let rule = "is one of two ways to log in; leave out this or token_file";
        raw.problem("username", format!("{user:?}"), rule);
    }
    let login = user.map(|user| {
        let file = file.or_else(|| secret(name, "password"));
        if file.is_none() {
            let rule = format!(
                "needs password_file as well, or systemd's credential kithd.notify-{name}-password"
            );
            raw.problem("username", format!("{user:?}"), rule);
        }
        PasswordFile { user, file }
    });
    (login, token_file)
}

fn who(raw: &mut Raw) -> Who {
    let Some(words) = raw.texts("who") else {
        return Who {
            known: true,
            uncertain: true,
            unknown: true,
            ..Who::default()
        };
    };
    let mut who = Who::default();
    if words.is_empty() {
        let rule = "must name people, or \"known\", \"uncertain\", \"unknown\" or \"returning\"";
        raw.problem("who", "[]", rule);
    }
    for word in words {
        match word.as_str() {
            "known" => who.known = true,
            "uncertain" => who.uncertain = true,
            "unknown" => who.unknown = true,
            "returning" => who.returning = true,
            name => {
                let folded = names::fold(name);
                if folded.is_empty() {
                    raw.problem("who", format!("{name:?}"), "must be the name of a person");
                }
                who.names.push(folded);
            }
        }
    }
    who
}

fn hours(raw: &mut Raw) -> Vec<Hours> {
    let mut hours = Vec::new();
    for text in raw.texts("hours").unwrap_or_default() {
        match Hours::parse(&text) {
            Some(parsed) => hours.push(parsed),
            None => {
                let rule = "must be times of the day, for example \"22:00-06:00\"";
                raw.problem("hours", format!("{text:?}"), rule);
            }
        }
    }
    hours
}

fn attach(raw: &mut Raw) -> Attach {
    match raw.text("attach").as_deref() {
        None | Some("none") => Attach::Nothing,
        Some("face") => Attach::Face,
        Some("picture") => Attach::Picture,
        Some(other) => {
            let rule = "must be \"none\", \"face\" or \"picture\"";
            raw.problem("attach", format!("{other:?}"), rule);
            Attach::Nothing
        }
    }
}

fn template(raw: &mut Raw, key: &str, default: &str) -> Template {
    let typed = raw.text(key);
    Template::parse(typed.as_deref().unwrap_or(default)).unwrap_or_else(|rule| {
        raw.problem(key, format!("{:?}", typed.unwrap_or_default()), rule);
        Template(Vec::new())
    })
}

/// Reads the address of kithd's page. Without one it follows from `[http]` if that names the board
/// and other machines reach it.
fn page(raw: &mut Raw, http: &Http) -> Option<String> {
    if let Some(typed) = raw.text("page") {
        if !matches!(http_client::parse(&typed), Ok((_, path, None)) if !path.contains('?')) {
            let rule = "must be the address of kithd's page, for example \"https://kithd.lan\"";
            raw.problem("page", "", rule);
            return None;
        }
        return Some(typed.trim().trim_end_matches('/').into());
    }
    let name = http
        .names
        .first()
        .filter(|_| !http.listen.ip().is_loopback())?;
    let host = if name.contains(':') {
        format!("[{name}]")
    } else {
        name.clone()
    };
    let (scheme, port) = match http.tls {
        Tls::Off => ("http", 80),
        Tls::SelfSigned | Tls::Files { .. } => ("https", 443),
    };
    let port = match http.listen.port() {
        usual if usual == port => String::new(),
        other => format!(":{other}"),
    };
    Some(format!("{scheme}://{host}{port}{}", http.base_path))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn checked(text: &str) -> Vec<Notify> {
        Config::check(Raw::parse(text)).0.unwrap().notify
    }

    fn problems(text: &str) -> String {
        let problems = Config::check(Raw::parse(text)).0.unwrap_err();
        Config::problems_text(None, &problems)
    }

    #[test]
    fn an_address_is_enough_for_a_target() {
        let targets = checked(
            "[[notify]]\nname = \"phone\"\nntfy = \"https://ntfy.sh/s3cret-topic\"\n\
             [[notify]]\nname = \"flow\"\nwebhook = \"http://127.0.0.1:1880/k?id=3\"\n\
             who = [\"Ann LEE\", \"returning\"]\nhours = [\"22:00-6:00\", \"12:00-12:30\"]\n\
             attach = \"picture\"\nagain_after = \"0s\"\n",
        );
        let [phone, flow] = &targets[..] else {
            panic!("{targets:?}")
        };
        assert_eq!(phone.path.0, "/s3cret-topic");
        assert_eq!(phone.service, Service::Ntfy { priority: None });
        assert!(phone.who.known && phone.who.uncertain && phone.who.unknown);
        assert_eq!((phone.wait, phone.again_after), (secs(10), secs(600)));
        assert_eq!(phone.page, None);
        assert!(!format!("{phone:?}").contains("s3cret"), "{phone:?}");
        assert_eq!(flow.path.0, "/k?id=3");
        assert_eq!(flow.who.names, ["ann lee"]);
        assert!(flow.who.returning && !flow.who.known);
        let held = |minute| flow.hours.iter().any(|hours| hours.hold(minute));
        let at = [0, 359, 360, 719, 720, 749, 750, 1319, 1320, 1439].map(held);
        let expected = [
            true, true, false, false, true, true, false, false, true, true,
        ];
        assert_eq!(at, expected);
    }

    #[test]
    fn a_link_follows_from_the_names_of_the_board() {
        let page = |http: &str, more: &str| {
            let text = format!(
                "[http]\n{http}\n[[notify]]\nname = \"a\"\nwebhook = \"http://h/\"\n{more}\n"
            );
            checked(&text)[0].page.clone()
        };
        let named = "names = [\"kithd.lan\"]\nlisten = \"0.0.0.0:8000\"";
        assert_eq!(page(named, "").as_deref(), Some("http://kithd.lan:8000"));
        let encrypted = "names = [\"fd00::7\"]\nlisten = \"[::]:443\"\ntls = \"self-signed\"\n\
                         base_path = \"/k\"";
        assert_eq!(page(encrypted, "").as_deref(), Some("https://[fd00::7]/k"));
        assert_eq!(page("names = [\"kithd.lan\"]", ""), None);
        let own = "page = \"https://faces.example/door/\"";
        assert_eq!(
            page(named, own).as_deref(),
            Some("https://faces.example/door")
        );
    }

    #[test]
    fn places_are_filled_and_unknown_ones_refused() {
        let template = Template::parse("{who} at {source}: {history}").unwrap();
        let filled = template.fill(100, |place| match place {
            Placeholder::Who => "Ann\u{7}".into(),
            Placeholder::Source => "front".into(),
            _ => String::new(),
        });
        assert_eq!(filled, "Ann at front:");
        assert_eq!(template.fill(3, |_| "ä".into()), "ä a");
        for wrong in ["{whom}", "{who", "who}", "{}", " ", &"a".repeat(501)] {
            assert!(Template::parse(wrong).is_err(), "{wrong:?}");
        }
        let said = Template::parse("{whom}").unwrap_err();
        assert!(
            said.contains("{whom} is not known") && said.contains("{source}"),
            "{said}"
        );
    }

    #[test]
    fn what_is_wrong_with_a_target_is_said_at_once() {
        let text = problems(
            "[[notify]]\nname = \"my phone\"\nwebhook = \"http://anna:s3cret@h/\"\nwho = []\n\
             sources = [\"front door\"]\nhours = [\"22-6\", \"10:00-10:00\", \"25:00-26:00\"]\n\
             attach = \"video\"\ntitle = \"{name}\"\npriority = 3\nca_file = \"/nowhere\"\n\
             password_file = \"/etc/p\"\nexpire = \"1h\"\n\
             [[notify]]\nname = \"a\"\n[[notify]]\nname = \"a\"\nwebhook = \"http://h/\"\n\
             ntfy = \"https://ntfy.sh/s3cret\"\n\
             [[notify]]\nname = \"b\"\nntfy = \"https://ntfy.sh/\"\nsecret_file = \"/etc/s\"\n\
             username = \"u\"\ntoken_file = \"/etc/t\"\n",
        );
        for part in [
            "notify[0].name = \"my phone\": must be 1 to 64",
            "notify[0].webhook: must have no user and password",
            "notify[0].who = []: must name people",
            "notify[0].sources = \"front door\": must be the name of a camera",
            "notify[0].hours = \"22-6\": must be times",
            "notify[0].hours = \"10:00-10:00\": must be times",
            "notify[0].hours = \"25:00-26:00\": must be times",
            "notify[0].attach = \"video\": must be",
            "notify[0].title = \"{name}\": {name} is not known",
            "notify[0].priority: has no meaning for webhook",
            "notify[0].ca_file = /nowhere: cannot be read",
            "notify[0].password_file = /etc/p: needs username",
            "notify[0].expire = \"1h\": is not a known key; did you mean expires?",
            "notify[1].webhook: or ntfy must be set",
            "notify[2].ntfy: names a second address",
            "notify[3].ntfy: must be the address of a topic",
            "notify[3].secret_file: has no meaning for ntfy",
            "notify[3].username = \"u\": is one of two ways",
            "notify[3].username = \"u\": needs password_file as well",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        assert!(!text.contains("s3cret"), "{text}");
        let twins = "[[notify]]\nname = \"a\"\nwebhook = \"http://h/\"\n".repeat(2);
        assert!(problems(&twins).contains("notify[1].name = \"a\": is the name of another"));
    }

    #[test]
    fn secrets_of_targets_are_hidden_from_programs_of_cameras() {
        let text = "[[notify]]\nname = \"a\"\nwebhook = \"http://h/\"\nsecret_file = \"/etc/s\"\n\
                    username = \"u\"\npassword_file = \"/etc/p\"\n\
                    [[notify]]\nname = \"b\"\nntfy = \"http://h/t\"\ntoken_file = \"/etc/t\"\n";
        let config = Config::check(Raw::parse(text)).0.unwrap();
        let expected = ["/etc/s", "/etc/p", "/etc/t"].map(PathBuf::from);
        assert_eq!(config.secret_files(), expected);
    }
}

//! Logins by Basic and Digest (RFC 7616): answers to a server's challenges. The challenges are read
//! here because cameras write them in ways at which the library's parser gives up; the library
//! computes the answers.

use std::collections::HashMap;
use std::fmt::{Debug, Formatter};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use digest_auth::{
    Algorithm, AlgorithmType, AuthContext, Charset, HttpMethod, Qop, WwwAuthenticateHeader,
};
use hyper::Method;
use hyper::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

/// User and password. Its `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
}

impl Debug for Login {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        out.write_str("Login(hidden)")
    }
}

/// The login and the challenge that it answers, for the requests to one server.
pub(super) struct Answers {
    login: Option<Login>,
    challenge: Option<Challenge>,
    /// True if the login may be sent readable.
    pub(super) basic: bool,
}

enum Challenge {
    Basic,
    Digest(Box<WwwAuthenticateHeader>),
}

impl Answers {
    pub(super) fn new(login: Option<Login>) -> Self {
        Self {
            login,
            challenge: None,
            basic: true,
        }
    }

    /// Returns the `Authorization` of the next request. Before the first challenge there is none,
    /// so that a password is sent readable only to a server that asks for nothing better.
    pub(super) fn next(&mut self, method: &Method, path: &str) -> Option<HeaderValue> {
        let login = self.login.as_ref()?;
        let text = match self.challenge.as_mut()? {
            Challenge::Basic => {
                let pair = format!("{}:{}", login.user, login.password);
                format!("Basic {}", BASE64_STANDARD.encode(pair))
            }
            Challenge::Digest(challenge) => {
                let method = HttpMethod::from(method.as_str());
                let context = AuthContext::new_with_method(
                    login.user.as_str(),
                    login.password.as_str(),
                    path,
                    None::<&[u8]>,
                    method,
                );
                challenge.respond(&context).ok()?.to_string()
            }
        };
        let mut value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Takes the challenge of a response 401, to be answered by the next request; `answered` counts
    /// the challenges that this request has answered. The error is the end of a sentence about the
    /// server.
    pub(super) fn challenged(
        &mut self,
        headers: &HeaderMap,
        answered: usize,
    ) -> Result<(), &'static str> {
        if self.login.is_none() {
            return Err("asks for a login; give user and password");
        }
        let best = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .flat_map(|value| challenges(&String::from_utf8_lossy(value.as_bytes())))
            .filter_map(|(scheme, fields)| usable(&scheme, fields))
            .filter(|challenge| self.basic || !matches!(challenge, Challenge::Basic))
            .max_by_key(Challenge::strength);
        self.challenge = best;
        match (&self.challenge, answered) {
            (None, _) => Err("asks for a login of a kind that kithd does not know; \
                 set it to Digest or Basic there"),
            (Some(_), 0) => Ok(()),
            // A server that finds its own fresh nonce too old may have restarted in between.
            (Some(Challenge::Digest(challenge)), 1) if challenge.stale => Ok(()),
            (Some(_), _) => Err("refuses user and password; check both, and whether the \
                 account there is locked"),
        }
    }
}

impl Challenge {
    fn strength(&self) -> u8 {
        match self {
            Self::Basic => 0,
            Self::Digest(challenge) => match challenge.algorithm.algo {
                AlgorithmType::MD5 => 1,
                AlgorithmType::SHA2_256 | AlgorithmType::SHA2_512_256 => 2,
            },
        }
    }
}

/// Reads the challenges of one `WWW-Authenticate` field: each a scheme and its fields, by names in
/// lower case.
fn challenges(value: &str) -> Vec<(String, HashMap<String, String>)> {
    let mut found: Vec<(String, HashMap<String, String>)> = Vec::new();
    let between = |c: char| c.is_ascii_whitespace() || c == ',';
    let mut rest = value.trim_start_matches(between);
    while !rest.is_empty() {
        let end = rest.find(|c| between(c) || c == '=').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let word = word.to_ascii_lowercase();
        let Some(after) = after.trim_start().strip_prefix('=') else {
            found.push((word, HashMap::new()));
            rest = after.trim_start_matches(between);
            continue;
        };
        let after = after.trim_start();
        let mut value = String::new();
        if let Some(quoted) = after.strip_prefix('"') {
            let mut characters = quoted.chars();
            loop {
                match characters.next() {
                    None | Some('"') => break,
                    Some('\\') => value.extend(characters.next()),
                    Some(c) => value.push(c),
                }
            }
            rest = characters.as_str();
        } else {
            let (plain, after) = after.split_at(after.find(between).unwrap_or(after.len()));
            value.push_str(plain);
            rest = after;
        }
        if let Some((_, fields)) = found.last_mut() {
            fields.insert(word, value);
        }
        rest = rest.trim_start_matches(between);
    }
    found
}

/// Returns the challenge if it can be answered.
fn usable(scheme: &str, mut fields: HashMap<String, String>) -> Option<Challenge> {
    if scheme == "basic" {
        return Some(Challenge::Basic);
    }
    if scheme != "digest" {
        return None;
    }
    let algorithm = match fields.get("algorithm") {
        None => Algorithm::default(),
        Some(name) => {
            let name = name.to_ascii_uppercase().replace("-SESS", "-sess");
            name.parse().ok()?
        }
    };
    // With `auth-int` alone there is nothing to answer: the body of a request is not covered.
    let qop = match fields.get("qop") {
        None => None,
        Some(offered) => {
            let mut offered = offered.split([',', ' ']).map(str::trim);
            offered
                .any(|one| one.eq_ignore_ascii_case("auth"))
                .then(|| vec![Qop::AUTH])
                .map(Some)?
        }
    };
    let is_true = |name: &str| {
        let value = fields.get(name);
        value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
    };
    let (stale, userhash) = (is_true("stale"), is_true("userhash"));
    Some(Challenge::Digest(Box::new(WwwAuthenticateHeader {
        domain: None,
        realm: fields.remove("realm").unwrap_or_default(),
        nonce: fields.remove("nonce")?,
        opaque: fields.remove("opaque"),
        stale,
        algorithm,
        qop,
        userhash,
        charset: Charset::UTF8,
        nc: 0,
    })))
}

//! Access control of the LAN: the layer before every route, with the token and the sessions.
//!
//! A change needs the administrator's token, sent as a bearer or as a password, or exchanged for a
//! session by the form (`login`); reading and submitting are as configured. Any page can make a
//! browser send requests, so the layer also checks the name in the request (Host) and the page it
//! comes from (Origin, Sec-Fetch-Site). The control socket has no such layer: every user who may
//! open it may change things.

mod hosts;
mod policy;
pub(in crate::web) mod refusal;
pub(in crate::web) mod request;
mod sessions;
mod token;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{Framing, wants_page};
use crate::config::Http;
use crate::problem::Problem;
use crate::status::health::{Condition, Health};
use hosts::Hosts;
pub use hosts::own_names;
use request::AccessRequest;
pub(in crate::web) use sessions::LONGEST as LONGEST_SESSION;
use sessions::Sessions;
use token::Secret;
pub use token::TokenError;

/// Shortest time between log lines about wrong tokens.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Token, sessions and rules; clones share them.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    state_dir: PathBuf,
    hosts: Hosts,
    open_read: bool,
    open_submit: bool,
    /// Addresses whose requests never count as local.
    proxies: Vec<IpAddr>,
    framing: Framing,
    /// Recently requested host names that are not the board's.
    strange: Mutex<VecDeque<String>>,
    health: Health,
    keys: Mutex<Keys>,
}

/// Secrets that requests are compared with.
struct Keys {
    /// The token; `None` if it could not be read or made.
    token: Option<Secret>,
    sessions: Sessions,
    wrong: Wrong,
}

/// Wrong tokens, for the log. They lock no client out: 256 bits cannot be guessed.
#[derive(Default)]
struct Wrong {
    unsaid: u64,
    said: Option<Instant>,
}

impl Wrong {
    fn note(&mut self, peer: IpAddr) {
        self.unsaid += 1;
        if self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            tracing::warn!(
                "{} wrong tokens were sent, the last by {}",
                self.unsaid,
                peer.to_canonical()
            );
            *self = Self {
                unsaid: 0,
                said: Some(Instant::now()),
            };
        }
    }
}

impl Access {
    /// Reads the token, or makes one at the first start. If there is none, changes from the LAN are
    /// refused and the part `access` says so.
    pub fn open(state_dir: &Path, http: &Http, health: Health) -> Self {
        let hosts = Hosts::new(&http.names);
        let keys = Keys {
            token: None,
            sessions: Sessions::default(),
            wrong: Wrong::default(),
        };
        let access = Self(Arc::new(Inner {
            state_dir: state_dir.into(),
            hosts,
            open_read: http.open_read,
            open_submit: http.open_submit,
            proxies: http.proxies.clone(),
            framing: Framing::by(&http.frame_ancestors),
            strange: Mutex::default(),
            health,
            keys: Mutex::new(keys),
        }));
        // The part reports an error already.
        let _ = access.take(&mut access.lock(), token(state_dir, false));
        access
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.0.keys.lock()
    }

    /// Returns the token as text, for the control socket; makes it if there is none, replaces it on
    /// request. Sessions of an old token end.
    pub fn token(&self, replace: bool) -> Result<String, TokenError> {
        let mut keys = self.lock();
        let text = self.take(&mut keys, token(&self.0.state_dir, replace))?;
        if replace {
            tracing::warn!("the administrator's token was replaced; all sessions have ended");
        }
        Ok(text)
    }

    fn take(
        &self,
        keys: &mut Keys,
        made: Result<String, TokenError>,
    ) -> Result<String, TokenError> {
        let (condition, text) = match &made {
            Ok(text) => {
                let token = Secret::of(text);
                if keys.token.as_ref() != Some(&token) {
                    keys.sessions = Sessions::default();
                }
                keys.token = Some(token);
                (Condition::Ok, self.rules())
            }
            Err(error) => {
                (keys.token, keys.sessions) = (None, Sessions::default());
                (
                    Condition::Degraded,
                    format!("nothing can be changed over the network: {error}"),
                )
            }
        };
        if self.0.health.set("access", condition, text.as_str()) && condition == Condition::Degraded
        {
            tracing::error!("{text}");
        }
        made
    }

    fn rules(&self) -> String {
        let looking = if self.0.open_read {
            "is open"
        } else {
            "needs the token"
        };
        let sending = if self.0.open_submit {
            "is open"
        } else {
            "needs the token except on the board itself"
        };
        format!(
            "reading {looking}, submitting pictures {sending}, every change needs the token (kithd token)"
        )
    }

    /// Returns the origins that may embed the board's pages.
    pub fn framing(&self) -> Framing {
        self.0.framing.clone()
    }

    /// Returns recently requested host names that are not the board's.
    pub fn strange_names(&self) -> Vec<String> {
        self.0.strange.lock().iter().cloned().collect()
    }

    /// Returns true if the page came by a proxy of ours that replaces Host.
    pub(in crate::web) fn is_origin_of_own_proxy(&self, request: &AccessRequest<'_>) -> bool {
        request.is_origin_of_own_proxy(&self.0.hosts)
    }

    /// Begins a session in place of an old one, and returns its id; `None` without random numbers.
    pub(in crate::web) fn begin_session(&self, old: Option<&str>) -> Option<String> {
        let mut keys = self.lock();
        if let Some(old) = old {
            keys.sessions.end(old);
        }
        keys.sessions.begin()
    }

    /// Ends a session.
    pub(in crate::web) fn end_session(&self, id: &str) {
        self.lock().sessions.end(id);
    }
}

/// Returns the token of a state folder; makes it if there is none, replaces it on request.
pub fn token(state_dir: &Path, replace: bool) -> Result<String, TokenError> {
    if replace {
        token::replace(state_dir)
    } else {
        token::read_or_make(state_dir)
    }
}

/// Returns the system's host name.
pub fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The layer before every route of the LAN, including those that do not exist.
pub async fn guard(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let html = wants_page(&request);
    let Some(asked) = AccessRequest::of(&request) else {
        return Problem::bad_request("The request must name its host, once.").into_response();
    };
    match access.judge(&asked) {
        Ok(visitor) => {
            request.extensions_mut().insert(visitor);
            next.run(request).await
        }
        Err(refusal) => {
            let back = (*request.method() == Method::GET).then(|| request.uri());
            refusal.answer(html, back)
        }
    }
}

#[cfg(test)]
mod tests;

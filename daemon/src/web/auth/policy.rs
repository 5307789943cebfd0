//! The policy: who may look, submit and change, and on whose behalf a browser asks. `request` says
//! what counts as a request's sender and page.

use std::net::IpAddr;

use axum::http::Method;
use subtle::ConstantTimeEq;

use super::refusal::Refusal;
use super::request::AccessRequest;
use super::{Access, hosts, token};
use crate::web::visitor::Visitor;

/// Routes for submitting pictures, which change nothing that exists.
const SUBMITTING: [&str; 4] = ["/image/post", "/images/post", "/v1/images", "/v1/identify"];
/// Routes that export the faces of all people.
const WITH_FACES: [&str; 2] = ["/v1/backup", "/v1/people/export"];
/// Route of the bytes of refused messages, which may hold anything.
const MESSAGES: &str = "/v1/rejected/";
const PAYLOAD: &str = "/payload";
/// Number of foreign host names that are remembered, and most characters of each.
pub(super) const STRANGE: usize = 16;
pub(super) const STRANGE_LETTERS: usize = 100;

impl Access {
    /// Lets a request pass, or returns why it is refused.
    pub(super) fn judge(&self, asked: &AccessRequest<'_>) -> Result<Visitor, Refusal> {
        if !self.0.hosts.own(asked.host, asked.arrival.local.ip()) {
            return Err(self.misdirected(asked.host));
        }
        let reading = matches!(*asked.method, Method::GET | Method::HEAD);
        let always = reading
            && (asked.path.starts_with("/assets/") || matches!(asked.path, "/healthz" | "/readyz"));
        if always {
            return Ok(Visitor::default());
        }
        if let Some(token) = asked.bearer() {
            return self
                .try_token(asked.peer, token)
                .map(|()| Visitor::default());
        }
        let password = asked.password();
        if let Some(password) = &password
            && self.is_token(password)
        {
            // Browsers attach the password to requests from any page.
            return if !reading && asked.of_another_site() {
                Err(Refusal::Foreign)
            } else {
                Ok(Visitor::default())
            };
        }
        let csrf = asked
            .session()
            .and_then(|session| self.lock().sessions.csrf(session.value()));
        let secret = WITH_FACES.contains(&asked.path)
            || (asked.path.starts_with(MESSAGES) && asked.path.ends_with(PAYLOAD));
        let open_to_read = self.0.open_read && !secret;
        if asked.path == "/login" || (reading && (open_to_read || csrf.is_some())) {
            return Ok(Visitor { csrf });
        }
        let submitting = *asked.method == Method::POST && SUBMITTING.contains(&asked.path);
        let on_the_board =
            asked.is_on_the_board() && !self.0.proxies.contains(&asked.peer.to_canonical());
        if submitting && (self.0.open_submit || (on_the_board && !asked.came_by_a_proxy())) {
            // Otherwise every page in a browser on the board could submit.
            return if asked.of_another_site() {
                Err(Refusal::Foreign)
            } else {
                Ok(Visitor { csrf })
            };
        }
        let Some(csrf) = csrf else {
            return Err(match password {
                // Not checked earlier: the header may be meant for a proxy in between.
                Some(_) => self.wrong_token(asked.peer),
                None if submitting && asked.is_on_the_board() => Refusal::ByProxy,
                None => Refusal::NobodyKnown,
            });
        };
        // A browser sends its cookie with requests from any page.
        if !reading && !asked.of_own_page(&self.0.hosts) {
            return Err(Refusal::Foreign);
        }
        if !reading
            && !asked
                .csrf()
                .is_some_and(|sent| bool::from(sent.as_bytes().ct_eq(csrf.as_bytes())))
        {
            return Err(Refusal::Unsigned);
        }
        Ok(Visitor { csrf: Some(csrf) })
    }

    /// Checks a token that was sent; a wrong one is logged.
    pub(in crate::web) fn try_token(&self, peer: IpAddr, sent: &str) -> Result<(), Refusal> {
        if self.is_token(sent) {
            Ok(())
        } else {
            Err(self.wrong_token(peer))
        }
    }

    fn is_token(&self, sent: &str) -> bool {
        let mut keys = self.lock();
        if keys.token.is_none() {
            // The disk may have space again. Other errors have been reported.
            let _ = self.take(&mut keys, token(&self.0.state_dir, false));
        }
        keys.token.as_ref().is_some_and(|token| token.is(sent))
    }

    fn wrong_token(&self, peer: IpAddr) -> Refusal {
        self.lock().wrong.note(peer);
        Refusal::WrongToken
    }

    /// Remembers such a name, and logs it once.
    fn misdirected(&self, host: &str) -> Refusal {
        let name =
            hosts::split(host).map_or_else(|| host.escape_default().to_string(), |(name, _)| name);
        let name: String = name.chars().take(STRANGE_LETTERS).collect();
        let mut strange = self.0.strange.lock();
        if !strange.contains(&name) {
            // A client with invented names must not fill the log.
            if strange.len() < STRANGE {
                tracing::warn!("{}", Refusal::Misdirected(name.clone()).sentence());
            } else {
                strange.pop_front();
            }
            strange.push_back(name.clone());
        }
        Refusal::Misdirected(name)
    }
}

//! Login sessions: in memory only, with a lifetime and a limit.

use std::time::Duration;

use tokio::time::Instant;

use super::token::{Secret, random};

/// Idle time after which a session ends.
const IDLE: Duration = Duration::from_secs(12 * 3600);
/// Longest lifetime of a session.
pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
const MOST: usize = 64;

/// The open sessions.
#[derive(Default)]
pub struct Sessions(Vec<Session>);

struct Session {
    id: Secret,
    csrf: String,
    begun: Instant,
    used: Instant,
}

impl Sessions {
    /// Begins a session and returns its id; `None` without random numbers. Beyond the limit, the
    /// session that was unused longest ends.
    pub fn begin(&mut self) -> Option<String> {
        let (id, csrf, now) = (random()?, random()?, Instant::now());
        self.sweep(now);
        if self.0.len() >= MOST {
            // Sorted by last use.
            self.0.remove(0);
        }
        self.0.push(Session {
            id: Secret::of(&id),
            csrf,
            begun: now,
            used: now,
        });
        Some(id)
    }

    /// Returns the CSRF token of a session; `None` if there is no session with that id.
    pub fn csrf(&mut self, id: &str) -> Option<String> {
        let now = Instant::now();
        self.sweep(now);
        let at = self.0.iter().position(|session| session.id.is(id))?;
        let mut session = self.0.remove(at);
        session.used = now;
        let csrf = session.csrf.clone();
        self.0.push(session);
        Some(csrf)
    }

    /// Ends a session.
    pub fn end(&mut self, id: &str) {
        self.0.retain(|session| !session.id.is(id));
    }

    fn sweep(&mut self, now: Instant) {
        self.0
            .retain(|session| now - session.used < IDLE && now - session.begun < LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_session_lasts_while_used_a_week_at_most_until_logout() {
        let mut sessions = Sessions::default();
        let id = sessions.begin().unwrap();
        let csrf = sessions.csrf(&id).unwrap();
        assert_ne!(csrf, id);
        for _ in 0..15 {
            tokio::time::advance(Duration::from_secs(11 * 3600)).await;
            assert_eq!(sessions.csrf(&id).as_ref(), Some(&csrf));
        }
        tokio::time::advance(Duration::from_secs(4 * 3600)).await;
        assert_eq!(sessions.csrf(&id), None, "a week is over");
        let id = sessions.begin().unwrap();
        tokio::time::advance(IDLE).await;
        assert_eq!(sessions.csrf(&id), None);
        let id = sessions.begin().unwrap();
        sessions.end(&id);
        assert_eq!(sessions.csrf(&id), None);
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_most_there_may_be_the_one_longest_unused_goes() {
        let mut sessions = Sessions::default();
        let ids: Vec<_> = (0..MOST).map(|_| sessions.begin().unwrap()).collect();
        assert!(sessions.csrf(&ids[0]).is_some());
        sessions.begin().unwrap();
        assert!(sessions.csrf(&ids[0]).is_some() && sessions.csrf(&ids[1]).is_none());
        assert_eq!(sessions.0.len(), MOST);
    }
}

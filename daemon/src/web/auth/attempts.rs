//! How many wrong tokens are listened to: so many from one sender, and so many in all. By monotonic time.
//!
//! A sender beyond its number is not listened to at all. Beyond the number of all, the right token is still taken from
//! who is not beyond his own: no attacker locks the administrator out from elsewhere.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::serve::Sender;

/// Wrong ones in a row from one sender, and how soon another is allowed.
const OF_ONE: Allowance = Allowance { burst: 10.0, every: Duration::from_secs(30) };
/// From everybody together.
const OF_ALL: Allowance = Allowance { burst: 200.0, every: Duration::from_secs(1) };
/// Senders that are remembered; then whoever has done least is forgotten.
const REMEMBERED: usize = 1024;

/// How a token came. A program with an old token must not keep its user out of the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// By the login form.
    Form,
    /// As a bearer.
    Bearer,
}

/// What becomes of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// That is the token.
    Right,
    /// That is not.
    Wrong,
    /// Whatever it was; again after so long.
    TooMany(Duration),
}

/// The wrong ones lately.
pub struct Attempts {
    of_one: HashMap<(Way, Sender), Left>,
    of_all: Left,
}

struct Allowance {
    burst: f64,
    every: Duration,
}

/// What is left of an allowance.
#[derive(Clone, Copy)]
struct Left {
    count: f64,
    at: Instant,
}

impl Allowance {
    fn whole(&self) -> Left {
        Left { count: self.burst, at: Instant::now() }
    }

    fn now(&self, left: Left) -> Left {
        let at = Instant::now();
        let count = left.count + (at - left.at).as_secs_f64() / self.every.as_secs_f64();
        Left { count: count.min(self.burst), at }
    }
}

impl Left {
    fn one_less(self) -> Self {
        Self { count: (self.count - 1.0).max(0.0), ..self }
    }
}

impl Attempts {
    /// None so far.
    pub fn new() -> Self {
        Self { of_one: HashMap::new(), of_all: OF_ALL.whole() }
    }

    /// Counts an attempt that is right or wrong.
    pub fn judge(&mut self, way: Way, sender: Sender, right: bool) -> Verdict {
        let left = self.of_one.get(&(way, sender)).map_or_else(|| OF_ONE.whole(), |left| OF_ONE.now(*left));
        if left.count < 1.0 {
            return Verdict::TooMany(OF_ONE.every.mul_f64(1.0 - left.count));
        }
        if right {
            self.of_one.remove(&(way, sender));
            return Verdict::Right;
        }
        self.forget_some();
        self.of_one.insert((way, sender), left.one_less());
        let all = OF_ALL.now(self.of_all);
        self.of_all = all.one_less();
        if all.count < 1.0 {
            return Verdict::TooMany(OF_ALL.every);
        }
        if left.count < 2.0 {
            tracing::warn!("many wrong tokens from one address; it is not listened to for a while");
        }
        Verdict::Wrong
    }

    fn forget_some(&mut self) {
        if self.of_one.len() < REMEMBERED {
            return;
        }
        self.of_one.retain(|_, left| OF_ONE.now(*left).count < OF_ONE.burst);
        let least = self.of_one.iter().max_by(|(_, a), (_, b)| OF_ONE.now(**a).count.total_cmp(&OF_ONE.now(**b).count));
        if let Some(sender) = least.map(|(sender, _)| *sender).filter(|_| self.of_one.len() >= REMEMBERED) {
            self.of_one.remove(&sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn sender(number: u32) -> Sender {
        Sender::of(IpAddr::V4(number.into()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_of_wrong_tokens_is_not_listened_to_for_a_while_and_others_are() {
        let mut attempts = Attempts::new();
        for _ in 0..10 {
            assert_eq!(attempts.judge(Way::Form, sender(1), false), Verdict::Wrong);
        }
        let too_many = Verdict::TooMany(Duration::from_secs(30));
        assert_eq!(attempts.judge(Way::Form, sender(1), false), too_many);
        assert_eq!(attempts.judge(Way::Form, sender(1), true), too_many, "a guess that is right must not be told");
        assert_eq!(attempts.judge(Way::Bearer, sender(1), true), Verdict::Right);
        assert_eq!(attempts.judge(Way::Form, sender(2), true), Verdict::Right);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(attempts.judge(Way::Form, sender(1), true), Verdict::Right);
        assert_eq!(attempts.judge(Way::Form, sender(1), false), Verdict::Wrong, "and begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn many_senders_together_are_bounded_in_memory_and_lock_nobody_else_out() {
        let mut attempts = Attempts::new();
        let wrong = (0..3000).filter(|n| attempts.judge(Way::Bearer, sender(*n), false) == Verdict::Wrong).count();
        assert_eq!(wrong, 200);
        assert_eq!(attempts.of_one.len(), REMEMBERED);
        assert_eq!(attempts.judge(Way::Bearer, sender(5000), true), Verdict::Right);
        // Who did worst is remembered.
        let mut attempts = Attempts::new();
        for number in std::iter::repeat_n(7, 10).chain(100..3000) {
            attempts.judge(Way::Form, sender(number), false);
        }
        assert!(matches!(attempts.judge(Way::Form, sender(7), true), Verdict::TooMany(_)));
    }
}

//! Connection limits of a listener: in all, and for each client. A connection that waits for a
//! request is closed to admit a new one. A few connections are reserved for the board itself.
//!
//! So idle connections and half-sent heads cannot lock other clients out, however many there are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Connection limits of one listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most in all.
    pub total: usize,
    /// Most of one client.
    pub per_client: usize,
}

/// Connections reserved for programs on the board, whatever the network does.
const RESERVED: usize = 16;
/// Time in which a new connection's request is expected: younger connections are evicted last.
const GRACE: Duration = Duration::from_secs(2);

/// A client for limits: an address, or for IPv6 its network, since each network has too many
/// addresses to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl Client {
    /// Returns the client with this address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                Self(IpAddr::V6((address.to_bits() >> 64 << 64).into()))
            }
            other => Self(other),
        }
    }

    fn is_on_the_board(self) -> bool {
        self.0.is_loopback()
    }
}

/// The open connections of a listener; clones share them.
#[derive(Clone)]
pub struct ConnectionLimit(Arc<Mutex<Connections>>);

struct Connections {
    limits: Limits,
    next: u64,
    open: HashMap<u64, Connection>,
}

struct Connection {
    client: Client,
    /// Number of requests being answered.
    active: usize,
    /// Time since which there has been none.
    idle_since: Instant,
    /// True if a request was answered before.
    answered: bool,
    evicted: CancellationToken,
}

/// The permit of one connection; dropping it frees the place.
pub struct ConnectionPermit {
    limit: ConnectionLimit,
    number: u64,
    evicted: CancellationToken,
}

/// A request that is being answered; until it is dropped its connection is not evicted.
pub struct ActiveRequest {
    limit: ConnectionLimit,
    number: u64,
}

impl ConnectionLimit {
    /// Allows so many connections.
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(Connections {
            limits,
            next: 0,
            open: HashMap::new(),
        })))
    }

    /// Returns a permit, perhaps that of an evicted connection; `None` if all are answering
    /// requests.
    pub fn admit(&self, address: IpAddr) -> Option<ConnectionPermit> {
        let client = Client::of(address);
        let mut connections = self.0.lock();
        let Limits { total, per_client } = connections.limits;
        connections.make_room(per_client, |open| open.client == client)?;
        if !client.is_on_the_board() {
            connections.make_room(total - RESERVED, |open| !open.client.is_on_the_board())?;
        }
        connections.make_room(total, |_| true)?;
        let (number, evicted) = (connections.next, CancellationToken::new());
        connections.next += 1;
        let connection = Connection {
            client,
            active: 0,
            idle_since: Instant::now(),
            answered: false,
            evicted: evicted.clone(),
        };
        connections.open.insert(number, connection);
        drop(connections);
        Some(ConnectionPermit {
            limit: self.clone(),
            number,
            evicted,
        })
    }
}

impl Connections {
    /// Evicts a connection if there are already so many of these: the one that has been idle
    /// longest, a new one only if no other is idle. Returns `None` if none is idle.
    fn make_room(&mut self, most: usize, among: impl Fn(&Connection) -> bool) -> Option<()> {
        let these: Vec<_> = self.open.iter().filter(|(_, open)| among(open)).collect();
        if these.len() < most {
            return Some(());
        }
        let order = |(number, open): (&u64, &Connection)| {
            let new = !open.answered && open.idle_since.elapsed() < GRACE;
            (new, open.idle_since, *number)
        };
        let idle = these.into_iter().filter(|(_, open)| open.active == 0);
        let (_, _, number) = idle.map(order).min()?;
        self.open.remove(&number)?.evicted.cancel();
        Some(())
    }
}

impl ConnectionPermit {
    /// Cancelled when the connection is evicted.
    pub fn evicted(&self) -> CancellationToken {
        self.evicted.clone()
    }

    /// Marks a request as being answered, until dropped.
    pub fn begin_request(&self) -> ActiveRequest {
        if let Some(connection) = self.limit.0.lock().open.get_mut(&self.number) {
            connection.active += 1;
        }
        ActiveRequest {
            limit: self.limit.clone(),
            number: self.number,
        }
    }

    /// Returns how long no request has been answered here; zero while one is.
    pub fn idle(&self) -> Duration {
        let connections = self.limit.0.lock();
        let connection = connections.open.get(&self.number);
        connection
            .filter(|connection| connection.active == 0)
            .map_or(Duration::ZERO, |connection| connection.idle_since.elapsed())
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limit.0.lock().open.remove(&self.number);
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        if let Some(connection) = self.limit.0.lock().open.get_mut(&self.number) {
            connection.active -= 1;
            (connection.idle_since, connection.answered) = (Instant::now(), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        total: 512,
        per_client: 128,
    };

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_is_evicted_and_none_that_is_active() {
        let limit = ConnectionLimit::new(LIMITS);
        let address = |last: u8| IpAddr::from([192, 168, 1, last]);
        let mut permits = Vec::new();
        for _ in 0..LIMITS.per_client {
            permits.push(limit.admit(address(1)).unwrap());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let first_active = permits[0].begin_request();
        permits.push(limit.admit(address(1)).unwrap());
        let gone = |permits: &[ConnectionPermit]| -> Vec<_> {
            permits
                .iter()
                .enumerate()
                .filter(|(_, permit)| permit.evicted.is_cancelled())
                .map(|(at, _)| at)
                .collect()
        };
        assert_eq!(gone(&permits), [1]);
        // Other connections are not affected.
        let other = limit.admit(address(2)).unwrap();
        assert_eq!(gone(&permits), [1]);
        let all: Vec<_> = permits
            .iter()
            .map(ConnectionPermit::begin_request)
            .collect();
        assert!(limit.admit(address(1)).is_none(), "all of them are active");
        assert!(limit.admit(address(2)).is_some());
        drop((all, first_active));
        assert!(limit.admit(address(1)).is_some());
        drop((permits, other));
        assert!(limit.0.lock().open.is_empty());
    }

    /// Idle connections that were answered close first, then those with half a head, then new ones.
    #[tokio::test(start_paused = true)]
    async fn the_newest_are_evicted_after_answered_and_half_sent_ones() {
        let limit = ConnectionLimit::new(LIMITS);
        let address = IpAddr::from([192, 168, 1, 1]);
        let permits: Vec<_> = (0..LIMITS.per_client)
            .map(|_| limit.admit(address).unwrap())
            .collect();
        tokio::time::advance(GRACE / 2).await;
        drop(permits[5].begin_request());
        let newest = limit.admit(address).unwrap();
        assert!(permits[5].evicted.is_cancelled() && !permits[0].evicted.is_cancelled());
        tokio::time::advance(GRACE / 2).await;
        drop(newest.begin_request());
        let _one_more = limit.admit(address).unwrap();
        assert!(permits[0].evicted.is_cancelled() && !newest.evicted.is_cancelled());
    }

    #[test]
    fn a_connection_is_active_until_its_last_answer_has_ended() {
        let limit = ConnectionLimit::new(Limits {
            total: RESERVED + 1,
            per_client: 1,
        });
        let address = IpAddr::from([10, 0, 0, 1]);
        let permit = limit.admit(address).unwrap();
        let (first, second) = (permit.begin_request(), permit.begin_request());
        drop(first);
        assert!(limit.admit(address).is_none() && permit.idle() == Duration::ZERO);
        drop(second);
        assert!(limit.admit(address).is_some() && permit.evicted().is_cancelled());
    }

    #[test]
    fn the_board_itself_is_admitted_when_all_others_are_active() {
        let limit = ConnectionLimit::new(LIMITS);
        let mut active = Vec::new();
        let mut admit = |address: [u8; 4]| {
            let permit = limit.admit(address.into())?;
            active.push((permit.begin_request(), permit));
            Some(())
        };
        let from_elsewhere = (0..LIMITS.total)
            .filter(|n| admit([10, 0, 0, (n / 64) as u8]).is_some())
            .count();
        assert_eq!(from_elsewhere, LIMITS.total - RESERVED);
        let own = (0..LIMITS.per_client)
            .filter(|_| admit([127, 0, 0, 1]).is_some())
            .count();
        assert_eq!(own, RESERVED);
        assert!(admit([10, 9, 9, 9]).is_none());
    }

    #[test]
    fn the_whole_is_bounded_and_one_network_of_ipv6_is_one_client() {
        let limit = ConnectionLimit::new(LIMITS);
        let address =
            |n: usize| IpAddr::from([if n < RESERVED { 127 } else { 10 }, 0, 0, (n / 64) as u8]);
        let permits: Vec<_> = (0..LIMITS.total)
            .map(|n| limit.admit(address(n)).unwrap())
            .collect();
        let newcomer = limit.admit(IpAddr::from([10, 9, 9, 9])).unwrap();
        assert_eq!(
            permits
                .iter()
                .filter(|permit| permit.evicted.is_cancelled())
                .count(),
            1
        );
        assert_eq!(limit.0.lock().open.len(), LIMITS.total);
        drop((permits, newcomer));
        let of = |text: &str| Client::of(text.parse().unwrap());
        assert_eq!(of("fd00::1:2:3:4"), of("fd00::5:6:7:8"));
        assert_ne!(of("fd00:0:0:1::1"), of("fd00:0:0:2::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}

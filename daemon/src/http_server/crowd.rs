//! Connection limits of a listener: in all, and for each address. A connection that waits for a
//! request gives way to a new one. A few places are reserved for the board itself.
//!
//! So idle connections and half-sent heads cannot lock other clients out, however many there are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Connection limits of one listener.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Most in all.
    pub most: usize,
    /// Most of one address.
    pub of_one: usize,
}

/// Connections reserved for programs on the board, whatever the network does.
const KEPT: usize = 16;
/// Time in which a new connection's request is expected: younger connections give way last.
const JUST_COME: Duration = Duration::from_secs(2);

/// Key for counting requests: an address, or for IPv6 its network, since each network has too many
/// addresses to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sender(IpAddr);

impl Sender {
    /// Returns the key of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                Self(IpAddr::V6((address.to_bits() >> 64 << 64).into()))
            }
            other => Self(other),
        }
    }
}

/// The connections; clones share them.
#[derive(Clone)]
pub struct Crowd(Arc<Mutex<Seats>>);

struct Seats {
    room: Room,
    next: u64,
    taken: HashMap<u64, Taken>,
}

struct Taken {
    sender: Sender,
    /// Number of requests being answered.
    at_work: usize,
    /// Time since which there has been none.
    waiting: Instant,
    /// True if a request was answered before.
    answered: bool,
    given_up: CancellationToken,
}

/// The place of one connection; dropping it frees the place.
pub struct Seat {
    crowd: Crowd,
    number: u64,
    given_up: CancellationToken,
}

/// Guards the place of a connection while a request is answered: the place is not given away.
pub struct AtWork {
    crowd: Crowd,
    number: u64,
}

impl Crowd {
    /// Makes an empty list.
    pub fn new(room: Room) -> Self {
        Self(Arc::new(Mutex::new(Seats {
            room,
            next: 0,
            taken: HashMap::new(),
        })))
    }

    /// Returns a place, perhaps that of a waiting connection; `None` if all are answering requests.
    pub fn admit(&self, address: IpAddr) -> Option<Seat> {
        let sender = Sender::of(address);
        let mut seats = self.lock();
        let Room { most, of_one } = seats.room;
        if seats
            .taken
            .values()
            .filter(|taken| taken.sender == sender)
            .count()
            >= of_one
        {
            seats.clear_one(|taken| taken.sender == sender)?;
        }
        let from_elsewhere = |taken: &Taken| !taken.sender.0.is_loopback();
        let elsewhere = seats
            .taken
            .values()
            .filter(|taken| from_elsewhere(taken))
            .count();
        if !sender.0.is_loopback() && elsewhere >= most - KEPT {
            seats.clear_one(from_elsewhere)?;
        }
        if seats.taken.len() >= most {
            seats.clear_one(|_| true)?;
        }
        let (number, given_up) = (seats.next, CancellationToken::new());
        seats.next += 1;
        let taken = Taken {
            sender,
            at_work: 0,
            waiting: Instant::now(),
            answered: false,
            given_up: given_up.clone(),
        };
        seats.taken.insert(number, taken);
        drop(seats);
        Some(Seat {
            crowd: self.clone(),
            number,
            given_up,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.0.lock()
    }
}

impl Seats {
    /// Takes the place of the connection that has waited longest; of those that are new only if no
    /// other waits.
    fn clear_one(&mut self, among: impl Fn(&Taken) -> bool) -> Option<()> {
        let waiting = self
            .taken
            .iter()
            .filter(|(_, taken)| taken.at_work == 0 && among(taken));
        let order = |(number, taken): (&u64, &Taken)| {
            (
                !taken.answered && taken.waiting.elapsed() < JUST_COME,
                taken.waiting,
                *number,
            )
        };
        let (_, _, number) = waiting.map(order).min()?;
        self.taken.remove(&number)?.given_up.cancel();
        Some(())
    }
}

impl Seat {
    /// Cancelled when the place is given away.
    pub fn given_up(&self) -> CancellationToken {
        self.given_up.clone()
    }

    /// Marks a request as being answered, until dropped.
    pub fn at_work(&self) -> AtWork {
        if let Some(taken) = self.crowd.lock().taken.get_mut(&self.number) {
            taken.at_work += 1;
        }
        AtWork {
            crowd: self.crowd.clone(),
            number: self.number,
        }
    }

    /// Returns how long no request has been answered here; zero while one is.
    pub fn idle(&self) -> Duration {
        let seats = self.crowd.lock();
        let taken = seats
            .taken
            .get(&self.number)
            .filter(|taken| taken.at_work == 0);
        taken.map_or(Duration::ZERO, |taken| taken.waiting.elapsed())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.lock().taken.remove(&self.number);
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if let Some(taken) = self.crowd.lock().taken.get_mut(&self.number) {
            taken.at_work -= 1;
            (taken.waiting, taken.answered) = (Instant::now(), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        most: 512,
        of_one: 128,
    };

    #[tokio::test(start_paused = true)]
    async fn whoever_waited_longest_gives_way_and_nobody_who_is_at_work() {
        let crowd = Crowd::new(ROOM);
        let address = |last: u8| IpAddr::from([192, 168, 1, last]);
        let mut seats = Vec::new();
        for _ in 0..ROOM.of_one {
            seats.push(crowd.admit(address(1)).unwrap());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let first_at_work = seats[0].at_work();
        seats.push(crowd.admit(address(1)).unwrap());
        let gone = |seats: &[Seat]| -> Vec<_> {
            seats
                .iter()
                .enumerate()
                .filter(|(_, seat)| seat.given_up.is_cancelled())
                .map(|(at, _)| at)
                .collect()
        };
        assert_eq!(gone(&seats), [1]);
        // Other connections are not affected.
        let other = crowd.admit(address(2)).unwrap();
        assert_eq!(gone(&seats), [1]);
        let all: Vec<_> = seats.iter().map(Seat::at_work).collect();
        assert!(crowd.admit(address(1)).is_none(), "all of them are at work");
        assert!(crowd.admit(address(2)).is_some());
        drop((all, first_at_work));
        assert!(crowd.admit(address(1)).is_some());
        drop((seats, other));
        assert!(crowd.lock().taken.is_empty());
    }

    /// Idle connections that were answered close first, then those with half a head, then new ones.
    #[tokio::test(start_paused = true)]
    async fn the_newest_give_way_after_answered_and_half_sent_ones() {
        let crowd = Crowd::new(ROOM);
        let address = IpAddr::from([192, 168, 1, 1]);
        let seats: Vec<_> = (0..ROOM.of_one)
            .map(|_| crowd.admit(address).unwrap())
            .collect();
        tokio::time::advance(JUST_COME / 2).await;
        drop(seats[5].at_work());
        let newest = crowd.admit(address).unwrap();
        assert!(seats[5].given_up.is_cancelled() && !seats[0].given_up.is_cancelled());
        tokio::time::advance(JUST_COME / 2).await;
        drop(newest.at_work());
        let _one_more = crowd.admit(address).unwrap();
        assert!(seats[0].given_up.is_cancelled() && !newest.given_up.is_cancelled());
    }

    #[test]
    fn a_seat_is_at_work_until_its_last_answer_has_ended() {
        let crowd = Crowd::new(Room {
            most: KEPT + 1,
            of_one: 1,
        });
        let address = IpAddr::from([10, 0, 0, 1]);
        let seat = crowd.admit(address).unwrap();
        let (first, second) = (seat.at_work(), seat.at_work());
        drop(first);
        assert!(crowd.admit(address).is_none() && seat.idle() == Duration::ZERO);
        drop(second);
        assert!(crowd.admit(address).is_some() && seat.given_up().is_cancelled());
    }

    #[test]
    fn the_board_itself_finds_a_seat_when_all_others_are_at_work() {
        let crowd = Crowd::new(ROOM);
        let mut at_work = Vec::new();
        let mut admit = |address: [u8; 4]| {
            let seat = crowd.admit(address.into())?;
            at_work.push((seat.at_work(), seat));
            Some(())
        };
        let from_elsewhere = (0..ROOM.most)
            .filter(|n| admit([10, 0, 0, (n / 64) as u8]).is_some())
            .count();
        assert_eq!(from_elsewhere, ROOM.most - KEPT);
        let own = (0..ROOM.of_one)
            .filter(|_| admit([127, 0, 0, 1]).is_some())
            .count();
        assert_eq!(own, KEPT);
        assert!(admit([10, 9, 9, 9]).is_none());
    }

    #[test]
    fn the_whole_is_bounded_and_one_network_of_ipv6_is_one_sender() {
        let crowd = Crowd::new(ROOM);
        let address =
            |n: usize| IpAddr::from([if n < KEPT { 127 } else { 10 }, 0, 0, (n / 64) as u8]);
        let seats: Vec<_> = (0..ROOM.most)
            .map(|n| crowd.admit(address(n)).unwrap())
            .collect();
        let newcomer = crowd.admit(IpAddr::from([10, 9, 9, 9])).unwrap();
        assert_eq!(
            seats
                .iter()
                .filter(|seat| seat.given_up.is_cancelled())
                .count(),
            1
        );
        assert_eq!(crowd.lock().taken.len(), ROOM.most);
        drop((seats, newcomer));
        let of = |text: &str| Sender::of(text.parse().unwrap());
        assert_eq!(of("fd00::1:2:3:4"), of("fd00::5:6:7:8"));
        assert_ne!(of("fd00:0:0:1::1"), of("fd00:0:0:2::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}

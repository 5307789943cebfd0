//! Short histories on three boards, from any edits in any order.

use super::boards::{Board, Broker, exchange, fleet_of, same_everywhere};
use crate::domain::PersonId;
use crate::store::Contents;

/// What an operator or the network does. Numbers choose among what there is.
#[derive(Debug, Clone)]
pub enum Step {
    Enroll(u8, u8),
    Rename(u8, u8),
    Merge(u8, u8),
    Forget(u8),
    DeletePicture(u8),
    NotThem(u8, u8),
    Backup,
    Restore,
    Import(u8),
    Reopen,
    Send,
    CatchUp,
}

const NAMES: [&str; 4] = ["Ann", "ANN", "Bob", "Eve"];

async fn chosen(board: &Board, number: u8) -> Option<PersonId> {
    let people = board.store.person_names().await.unwrap();
    let at = usize::from(number) % people.len().max(1);
    people.get(at).map(|person| person.0)
}

/// Plays steps, each on a board, then connects all boards.
pub async fn play(steps: &[(u8, Step)]) {
    let (mut boards, mut broker) = fleet_of(3).await;
    let mut backups = [None, None, None];
    for (board, step) in steps {
        let at = usize::from(*board) % 3;
        let from = usize::from(match step {
            Step::Import(from) => *from % 3,
            _ => 0,
        });
        if let Step::Import(_) = step {
            let file = boards[from].backup(Contents::People).await;
            boards[at].restore(&file, false).await;
            continue;
        }
        one(&mut boards[at], &mut backups[at], step, &mut broker).await;
    }
    let all: Vec<&Board> = boards.iter().collect();
    exchange(&all, &mut broker).await;
    same_everywhere(&boards, &broker).await;
    let published = broker.published;
    for board in &mut boards {
        board.reopen().await;
    }
    let all: Vec<&Board> = boards.iter().collect();
    exchange(&all, &mut broker).await;
    assert_eq!(
        broker.published, published,
        "something is said again and again"
    );
    same_everywhere(&boards, &broker).await;
}

async fn one(
    board: &mut Board,
    backup: &mut Option<std::path::PathBuf>,
    step: &Step,
    broker: &mut Broker,
) {
    match step {
        Step::Enroll(name, picture) => {
            let name = NAMES[usize::from(*name) % NAMES.len()];
            board.enroll(name, &format!("p{}", picture % 5)).await;
        }
        Step::Rename(person, name) => {
            if let Some(person) = chosen(board, *person).await {
                let name = NAMES[usize::from(*name) % NAMES.len()];
                let renamed = board.store.rename_person(person, name.into()).await;
                renamed.unwrap();
            }
        }
        Step::Merge(one, other) => {
            if let (Some(one), Some(other)) =
                (chosen(board, *one).await, chosen(board, *other).await)
            {
                board.store.merge_people(one, other).await.unwrap();
                board.store.follow_merges().await.unwrap();
            }
        }
        Step::Forget(person) => {
            if let Some(person) = chosen(board, *person).await {
                board.forget(person).await;
            }
        }
        Step::DeletePicture(picture) => {
            board.delete_picture(&format!("p{}", picture % 5)).await;
        }
        Step::NotThem(person, face) => {
            if let Some(person) = chosen(board, *person).await {
                board.not_them(person, &format!("p{}", face % 7)).await;
            }
        }
        Step::Backup => *backup = Some(board.backup(Contents::Gallery).await),
        Step::Restore => {
            if let Some(backup) = backup {
                board.restore(backup, true).await;
            }
        }
        Step::Import(_) => {}
        Step::Reopen => board.reopen().await,
        Step::Send => drop(board.send(broker).await),
        Step::CatchUp => board.catch_up(broker).await,
    }
}

/// Makes steps from a seed.
fn steps(seed: u64, count: usize) -> Vec<(u8, Step)> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..count)
        .map(|_| {
            let (board, kind, a, b) = (next(), next() % 20, next(), next());
            let step = match kind {
                0..=4 => Step::Enroll(a, b),
                5 | 6 => Step::Rename(a, b),
                7 | 8 => Step::Merge(a, b),
                9 => Step::Forget(a),
                10 => Step::DeletePicture(a),
                11 | 12 => Step::NotThem(a, b),
                13 => Step::Backup,
                14 => Step::Restore,
                15 => Step::Import(a),
                16 => Step::Reopen,
                17 => Step::Send,
                _ => Step::CatchUp,
            };
            (board, step)
        })
        .collect()
}

#[tokio::test]
async fn any_short_history_ends_the_same_on_every_board() {
    let count = std::env::var("STUB_CASES").map_or(20, |n| n.parse().unwrap());
    let start: u64 = std::env::var("STUB_SEED").map_or(1, |n| n.parse().unwrap());
    for seed in start..start + count {
        let steps = steps(seed, 24);
        let shown = format!("seed {seed}: {steps:?}");
        println!("{shown}");
        play(&steps).await;
    }
}

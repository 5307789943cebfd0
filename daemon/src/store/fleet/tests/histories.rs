//! Short histories on three boards, from any edits in any order.

use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};

use super::boards::{Board, Broker, exchange, fleet_of, same_everywhere};
use crate::domain::PersonId;
use crate::store::Contents;

/// A step of an operator or of the network. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
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
    /// Some of all messages ever sent come, in some order, old ones too.
    Hear(u64),
    CatchUp,
}

const NAMES: [&str; 4] = ["Ann", "ANN", "Bob", "Eve"];

async fn chosen(board: &Board, number: u8) -> Option<PersonId> {
    let people = board.store.person_names().await.unwrap();
    let at = usize::from(number) % people.len().max(1);
    people.get(at).map(|person| person.0)
}

/// Plays steps, each on a board, then connects all boards.
async fn play(steps: &[(u8, Step)]) {
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
    let sent = broker.sent.len();
    for board in &mut boards {
        board.reopen().await;
    }
    let all: Vec<&Board> = boards.iter().collect();
    exchange(&all, &mut broker).await;
    assert_eq!(broker.sent.len(), sent, "something is said again and again");
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
        Step::Hear(seed) => board.hear(broker, *seed).await,
        Step::CatchUp => board.catch_up(broker).await,
    }
}

fn steps() -> impl Strategy<Value = Vec<(u8, Step)>> {
    let (a, b) = (any::<u8>(), any::<u8>());
    let step = prop_oneof![
        5 => (a, b).prop_map(|(name, picture)| Step::Enroll(name, picture)),
        2 => (a, b).prop_map(|(person, name)| Step::Rename(person, name)),
        2 => (a, b).prop_map(|(one, other)| Step::Merge(one, other)),
        1 => a.prop_map(Step::Forget),
        1 => a.prop_map(Step::DeletePicture),
        2 => (a, b).prop_map(|(person, face)| Step::NotThem(person, face)),
        1 => Just(Step::Backup),
        1 => Just(Step::Restore),
        1 => a.prop_map(Step::Import),
        1 => Just(Step::Reopen),
        3 => Just(Step::Send),
        4 => any::<u64>().prop_map(Step::Hear),
        2 => Just(Step::CatchUp),
    ];
    proptest::collection::vec((0..3_u8, step), 4..32)
}

/// Each case opens three databases, so there are few; `KITHD_FULL` asks for more.
#[test]
fn any_short_history_ends_the_same_on_every_board() {
    let full = std::env::var_os("KITHD_FULL").is_some();
    let config = ProptestConfig {
        cases: if full { 500 } else { 10 },
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&steps(), |steps| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(play(&steps));
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, steps)) => panic!("{why}\n{steps:#?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

//! Messages as they should come, and as they should not.

use super::*;
use crate::fleet::clock::{BoardId, Stamp};
use crate::fleet::record::{Body, PersonBody};

const ANN: Uid = [1; 16];

fn seal() -> Seal {
    Seal::new(&Secret::new([7; SECRET_BYTES]))
}

fn named(name: &str) -> Record {
    let stamp = Stamp {
        ms: 1_764_547_200_000,
        count: 0,
        board: BoardId(*b"board-01"),
    };
    Record::new(ANN, 0, Body::Person(PersonBody::new(stamp, name.into()))).unwrap()
}

fn tail() -> String {
    seal().tail(Kind::Person, &ANN)
}

fn refused(sealed: &[u8]) -> SealError {
    seal().open(&tail(), sealed).unwrap_err()
}

#[test]
fn a_sealed_record_opens_under_its_topic() {
    for record in [named("Ann"), named("Ann").erased()] {
        let sealed = seal().seal(&record).unwrap();
        assert_eq!(seal().open(&tail(), &sealed), Ok(record));
    }
    let (seal, uid) = (seal(), [0xee; 16]);
    let topic = seal.topic("kithd", "home", Kind::Picture, &uid);
    let levels: Vec<&str> = topic.split('/').collect();
    let tail = seal.tail(Kind::Picture, &uid);
    assert_eq!(levels, ["kithd", "fleet", "home", &seal.key_id(), &tail]);
    assert_eq!(
        seal.filter("kithd", "home"),
        format!("kithd/fleet/home/{}/+", seal.key_id())
    );
}

/// A message as the first version sealed it: boards of all versions must open it.
#[test]
fn the_bytes_of_a_sealed_record_are_those_of_its_version() {
    let record = named("Ann");
    let sealed = seal().seal_as(&tail(), [5; NONCE_LEN], &record.encode());
    let sealed = sealed.unwrap();
    assert_eq!((tail(), hex(&sealed)), (GOLDEN.0.into(), GOLDEN.1.into()));
    assert_eq!(seal().open(&tail(), &sealed), Ok(record));
}

const GOLDEN: (&str, &str) = (
    "984f0eec7c6abb7db8ad5e4d6ba690ad",
    "6b6601ee353224050505050505050505050505708ec4aca0d6c7a0923f5ad90959691e02\
     c04e16d8eba99e7bad4dd6e72cb229c6815488534a2f488eadd24e4f74dc7a0cbc26b3c2\
     94741e8687e249a197080d47472fe72ee94fec3982b86d38826dd3cf748361f8850000a8\
     b890f229e1cc578871b270d7aca21749788e47a3795d31788ee0f00ae0def736b7641473\
     551dee2951f9df29550ae748ee3778822a664e",
);

#[test]
fn neither_names_nor_their_lengths_show() {
    let short = seal().seal(&named("Ann")).unwrap();
    let long = seal().seal(&named("Annemarie")).unwrap();
    assert_eq!(short.len(), long.len());
    assert_ne!(short, seal().seal(&named("Ann")).unwrap());
    // The sizes that docs/design/fleet.md tells.
    let tombstone = seal().seal(&named("Ann").erased()).unwrap();
    assert_eq!((short.len(), tombstone.len()), (163, 99));
    let shows = |part: &[u8]| short.windows(part.len()).any(|window| window == part);
    assert!(!shows(b"Ann") && !shows(&ANN));
    assert_eq!((short.len() - HEADER_BYTES - TAG_BYTES) % PADDING, 0);
    // Topics tell neither the uid nor which records are of one person.
    let tails = Kind::ALL.map(|kind| seal().tail(kind, &ANN));
    for (number, tail) in tails.iter().enumerate() {
        assert!(!tail.contains(&hex(&ANN[..4])));
        assert!(!tails[..number].contains(tail));
    }
}

#[test]
fn a_message_of_another_key_is_named() {
    let other = Seal::new(&Secret::new([8; SECRET_BYTES]));
    let sealed = other.seal(&named("Ann")).unwrap();
    let (theirs, ours) = (other.key_id(), seal().key_id());
    assert_eq!(refused(&sealed), SealError::OtherKey { theirs, ours });
    // Under this key's number, which everybody sees.
    let mut forged = sealed;
    forged[3..7].copy_from_slice(&seal().key_id);
    assert_eq!(refused(&forged), SealError::Damaged);
}

#[test]
fn a_message_under_another_topic_is_refused() {
    let sealed = seal().seal(&named("Ann")).unwrap();
    for elsewhere in [
        seal().tail(Kind::Person, &[2; 16]),
        seal().tail(Kind::Picture, &ANN),
        String::new(),
    ] {
        let opened = seal().open(&elsewhere, &sealed);
        assert_eq!(opened, Err(SealError::Damaged));
    }
    // Sealed there by a board with the key.
    let elsewhere = seal().tail(Kind::Person, &[2; 16]);
    let sealed = seal()
        .seal_as(&elsewhere, [5; NONCE_LEN], &named("Ann").encode())
        .unwrap();
    let opened = seal().open(&elsewhere, &sealed);
    assert_eq!(opened, Err(SealError::OtherTopic));
}

#[test]
fn a_message_with_any_bit_changed_is_refused() {
    let sealed = seal().seal(&named("Ann")).unwrap();
    for place in 0..sealed.len() {
        for bit in 0..8 {
            let mut wrong = sealed.clone();
            wrong[place] ^= 1 << bit;
            let error = refused(&wrong);
            let expected = match place {
                0 | 1 => matches!(error, SealError::NotSealed),
                2 => matches!(error, SealError::Newer { .. } | SealError::NotSealed),
                3..7 => matches!(error, SealError::OtherKey { .. }),
                _ => error == SealError::Damaged,
            };
            assert!(expected, "byte {place}, bit {bit}: {error}");
        }
    }
}

#[test]
fn a_message_cut_or_lengthened_is_refused() {
    let sealed = seal().seal(&named("Ann")).unwrap();
    for end in 0..sealed.len() {
        let error = refused(&sealed[..end]);
        let expected = if end < 3 {
            SealError::NotSealed
        } else {
            SealError::Damaged
        };
        assert_eq!(error, expected, "{end} bytes");
    }
    assert_eq!(refused(&[&sealed[..], &[0]].concat()), SealError::Damaged);
}

#[test]
fn a_message_of_a_newer_version_is_named() {
    let mut sealed = seal().seal(&named("Ann")).unwrap();
    sealed[2] = 2;
    assert_eq!(
        refused(&sealed).to_string(),
        "the message was sealed by a newer kithd (format 2; this one opens format 1): update this board"
    );
    // A record of a newer version within.
    let mut record = named("Ann").encode();
    record[1] = 9;
    let sealed = seal().seal_as(&tail(), [5; NONCE_LEN], &record).unwrap();
    let newer = SealError::Record(RecordError::Newer { version: 9 });
    assert_eq!(refused(&sealed), newer);
}

#[test]
fn an_oversized_message_is_named() {
    let bytes = SEALED_BYTES + 1;
    assert_eq!(refused(&vec![0; bytes]), SealError::TooLarge { bytes });
    let largest = seal().seal_as(&tail(), [5; NONCE_LEN], &[0; RECORD_BYTES]);
    assert_eq!(largest.unwrap().len(), SEALED_BYTES);
    let beyond = seal().seal_as(&tail(), [5; NONCE_LEN], &[0; RECORD_BYTES + 1]);
    let error = refused(&beyond.unwrap());
    let named = matches!(error, SealError::Record(RecordError::TooLarge { .. }));
    assert!(named, "{error}");
}

#[test]
fn a_padding_that_no_board_writes_is_refused() {
    let plain = |record: &[u8], padding: &[u8]| {
        let length = u32::try_from(record.len()).unwrap().to_be_bytes();
        [&length, record, padding].concat()
    };
    let record = [9; 50];
    assert_eq!(unpadded(&plain(&record, &[0; 10])), Some(&record[..]));
    let mut dirty = [0; 10];
    dirty[9] = 1;
    assert_eq!(unpadded(&plain(&record, &dirty)), None);
    assert_eq!(unpadded(&plain(&record, &[0; 74])), None);
    assert_eq!(unpadded(&[0, 0, 1, 0, 5]), None);
    assert_eq!(unpadded(&[0; 3]), None);
}

#[test]
fn what_is_logged_does_not_show_the_secret() {
    let secret = Secret::new([7; SECRET_BYTES]);
    assert_eq!(format!("{secret:?}"), "Secret(…)");
    assert_ne!(Secret::random(), Secret::random());
}

//! Records, one by one: their bytes, their limits, and how two join.

use proptest::prelude::*;

use super::*;

fn stamp(ms: u64) -> Stamp {
    Stamp {
        ms,
        count: 3,
        board: BoardId(*b"board-01"),
    }
}

fn person() -> PersonBody {
    let mut body = PersonBody::new(stamp(1_764_547_200_000), "Ann Löw".into());
    body.merge_into([9; 16], stamp(1_764_547_200_500));
    body
}

fn picture() -> (Uid, PictureBody) {
    let sha256 = [0xab; 32];
    let content = Content {
        image_name: "ann.jpg".into(),
        sha256,
        jpeg: b"\xff\xd8 a picture \xff\xd9".to_vec(),
        bounds: [10.5, -0.0, 110.0, 120.25],
        quality: 0.75,
        crop: b"\xff\xd8 a face \xff\xd9".to_vec(),
    };
    let vector: Vec<u8> = [0.5_f32, -0.25]
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    let body = PictureBody {
        person: Field::new(stamp(7), [1; 16]),
        content: Field::new(stamp(5), content),
        vectors: Vectors::from([("space-a".into(), vector)]),
    };
    (picture_uid(&sha256), body)
}

fn counter() -> (Uid, CounterBody) {
    let body = CounterBody {
        person: [1; 16],
        crop: b"\xff\xd8 a face \xff\xd9".to_vec(),
        vectors: Vectors::new(),
        created_at_ms: -5,
    };
    (counter_uid(&body.person, &body.crop), body)
}

fn board() -> (Uid, BoardBody) {
    let state = BoardState {
        name: "door".into(),
        version: "0.1.0".into(),
        pack: "sface".into(),
        people: 3,
        pictures: 9,
        of_people: 4,
        of_pictures: 12,
        waiting: 1,
        last_result_ms: Some(0),
        page: "https://door.lan".into(),
        at_ms: 1_764_547_200_000,
    };
    let state = Field::new(stamp(8), state);
    (board_uid(BoardId(*b"board-01")), BoardBody { state })
}

fn one_of_each_kind() -> Vec<Record> {
    let (picture_uid, picture) = picture();
    let (counter_uid, counter) = counter();
    let (board_uid, board) = board();
    vec![
        Record::new([1; 16], 0, Body::Person(person())).unwrap(),
        Record::new(picture_uid, 2, Body::Picture(picture)).unwrap(),
        Record::new(counter_uid, 0, Body::Counter(counter)).unwrap(),
        Record::new(board_uid, 0, Body::Board(board)).unwrap(),
        Record::tombstone(Kind::Person, [1; 16], 0),
        Record::tombstone(Kind::Picture, picture_uid, 3),
    ]
}

fn malformed(bytes: &[u8]) -> &'static str {
    match Record::decode(bytes) {
        Err(RecordError::Malformed(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_is_read_as_it_was_written() {
    for record in one_of_each_kind() {
        let bytes = record.encode();
        let read = Record::decode(&bytes).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.encode(), bytes);
    }
    let tombstone = Record::tombstone(Kind::Picture, [0xff; 16], 1).encode();
    assert!(tombstone.len() <= 26, "{}", tombstone.len());
}

/// Records of [`one_of_each_kind`] as the first version wrote them. If they change, boards that are not
/// updated misread what updated ones write: give the format a new version.
#[test]
fn the_bytes_of_records_are_those_of_their_version() {
    let written: Vec<String> = one_of_each_kind()
        .iter()
        .map(|record| crate::domain::hex(&record.encode()))
        .collect();
    assert_eq!(written, GOLDEN);
}

const GOLDEN: [&str; 6] = [
    "080110011a10010101010101010101010101010101012a5a0a12088088d6b9ad33100319\
     31302d6472616f621212088088d6b9ad3310031931302d6472616f621a08416e6e204cc3\
     b67722260a1009090909090909090909090909090909121208f48bd6b9ad331003193130\
     2d6472616f62",
    "080110021a10abababababababababababababababab200232a6010a0d08071003193130\
     2d6472616f621210010101010101010101010101010101011a0d080510031931302d6472\
     616f622207616e6e2e6a70672a20abababababababababababababababababababababab\
     abababababababababab320fffd82061207069637475726520ffd93a1000002841000000\
     800000dc420080f042450000403f4a0cffd82061206661636520ffd952130a0773706163\
     652d6112080000003f000080be",
    "080110031a10fe79183b901b12469257f78738050b243a2b0a1001010101010101010101\
     010101010101120cffd82061206661636520ffd920fbffffffffffffffff01",
    "080110041a10626f6172642d3031000000000000000042480a0d080810031931302d6472\
     616f621204646f6f721a05302e312e3022057366616365280330093804400c480150005a\
     1068747470733a2f2f646f6f722e6c616e608088d6b9ad33",
    "080110011a10010101010101010101010101010101014801",
    "080110021a10abababababababababababababababab20034801",
];

#[test]
fn bytes_that_no_board_writes_are_refused() {
    for record in one_of_each_kind() {
        let bytes = record.encode();
        // An unknown field, a default that is written out, and a field twice.
        for more in [&[0x78, 1][..], &[0x20, 0], &[0x08, 1]] {
            let longer = [&bytes, more].concat();
            assert!(Record::decode(&longer).is_err(), "{more:x?}");
        }
        for end in 0..bytes.len() {
            assert!(Record::decode(&bytes[..end]).is_err(), "{end} bytes");
        }
    }
    assert_eq!(malformed(&[0x08, 1, 0x10, 9]), "its kind is unknown");
    assert_eq!(malformed(&[0x08, 1, 0x10, 1]), "a number has not 16 bytes");
    assert_eq!(malformed(&[0xff; 9]), "its bytes cannot be read");
}

#[test]
fn a_record_of_a_newer_version_is_named() {
    let mut bytes = Record::tombstone(Kind::Person, [1; 16], 0).encode();
    bytes[1] = 2;
    let error = Record::decode(&bytes).unwrap_err();
    assert_eq!(error, RecordError::Newer { version: 2 });
    assert_eq!(
        error.to_string(),
        "it was made by a newer kithd (format 2; this one reads format 1): update this board"
    );
}

#[test]
fn a_record_over_a_limit_is_named() {
    let named = |name: String| {
        let body = Body::Person(PersonBody::new(stamp(1), name));
        Record::new([1; 16], 0, body)
    };
    assert!(named("ä".repeat(NAME_CHARS)).is_ok());
    let error = named("ä".repeat(201)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "its name has 201 characters, and 200 is the limit"
    );
    let with = |change: fn(&mut PictureBody)| {
        let (uid, mut body) = picture();
        change(&mut body);
        let refused = Record::new(uid, 0, Body::Picture(body));
        refused.map_err(|error| error.to_string())
    };
    assert!(with(|body| body.content.value.jpeg = vec![0; JPEG_BYTES]).is_ok());
    for (refused, sentence) in [
        (
            with(|body| body.content.value.jpeg = vec![0; JPEG_BYTES + 1]),
            "its picture has 204801 bytes, and 204800 is the limit",
        ),
        (
            with(|body| body.content.value.crop = vec![0; CROP_BYTES + 1]),
            "its face has 32769 bytes, and 32768 is the limit",
        ),
        (
            with(|body| body.content.value.image_name = "x".repeat(256)),
            "its picture's name has 256 characters, and 255 is the limit",
        ),
        (
            with(|body| {
                body.vectors.insert("b".into(), vec![0; VECTOR_BYTES + 4]);
            }),
            "its embedding has 8196 bytes, and 8192 is the limit",
        ),
        (
            with(|body| {
                let more = ["b", "c", "d", "e"].map(|space| (space.into(), vec![0; 4]));
                body.vectors.extend(more);
            }),
            "its list of embeddings has 5 spaces, and 4 is the limit",
        ),
    ] {
        assert_eq!(refused.unwrap_err(), sentence);
    }
    let huge = Record::decode(&vec![0; RECORD_BYTES + 1]).unwrap_err();
    assert_eq!(
        huge.to_string(),
        "its record has 307201 bytes, and 307200 is the limit"
    );
}

#[test]
fn what_fits_every_limit_fits_a_record() {
    let (uid, mut body) = picture();
    body.content.value.image_name = "\u{10000}".repeat(IMAGE_NAME_CHARS);
    body.content.value.jpeg = vec![1; JPEG_BYTES];
    body.content.value.crop = vec![1; CROP_BYTES];
    let space = |number| format!("{number}{}", "\u{10000}".repeat(WORD_CHARS - 1));
    body.vectors = (0..SPACES)
        .map(|number| (space(number), vec![1; VECTOR_BYTES]))
        .collect();
    let record = Record::new(uid, INCARNATIONS, Body::Picture(body)).unwrap();
    assert_eq!(Record::decode(&record.encode()).unwrap(), record);
}

#[test]
fn a_record_that_makes_no_sense_is_refused() {
    let why = |record: Result<Record, RecordError>| record.unwrap_err().to_string();
    let refused = |sentence: &str| format!("it is no record of a fleet: {sentence}");
    let (uid, body) = picture();
    assert_eq!(
        why(Record::new([0; 16], 0, Body::Picture(body.clone()))),
        refused("a picture has another's number")
    );
    let mut nan = body.clone();
    nan.content.value.quality = f32::NAN;
    assert_eq!(
        why(Record::new(uid, 0, Body::Picture(nan))),
        refused("a number is not finite")
    );
    for vector in [vec![], vec![0; 5], f32::INFINITY.to_le_bytes().to_vec()] {
        let mut wrong = body.clone();
        wrong.vectors.insert("b".into(), vector);
        assert_eq!(
            why(Record::new(uid, 0, Body::Picture(wrong))),
            refused("an embedding is no list of numbers")
        );
    }
    let (_, face) = counter();
    assert_eq!(
        why(Record::new([1; 16], 0, Body::Counter(face))),
        refused("a counter-example has another's number")
    );
    let person = |change: fn(&mut PersonBody)| {
        let mut body = person();
        change(&mut body);
        why(Record::new([1; 16], 0, Body::Person(body)))
    };
    assert_eq!(
        person(|body| body.name.value.clear()),
        refused("a person has no name")
    );
    assert_eq!(
        person(|body| body.name.value.push('\n')),
        refused("a text has control characters")
    );
    assert_eq!(
        person(|body| body.name.stamp.ms = LATEST_MS + 1),
        refused("its time is after the year 2248")
    );
    assert_eq!(
        why(Record::new(
            [1; 16],
            1,
            Body::Person(super::tests::person())
        )),
        refused("an erased person came back")
    );
    let back = Record::tombstone(Kind::Person, [1; 16], 1).encode();
    assert_eq!(malformed(&back), "an erased person came back");
}

#[test]
fn a_picture_comes_back_by_the_next_incarnation() {
    let (uid, body) = picture();
    let there = Record::new(uid, 0, Body::Picture(body.clone())).unwrap();
    let removed = there.erased();
    let again = Record::new(
        uid,
        removed.next_incarnation().unwrap(),
        Body::Picture(body),
    )
    .unwrap();
    assert_eq!(there.join(&removed), removed);
    assert_eq!(removed.join(&again), again);
    assert_eq!(again.join(&there), again);
    assert_eq!(again.join(&removed), again);
    let person = Record::tombstone(Kind::Person, [1; 16], 0);
    assert_eq!(person.next_incarnation(), None);
}

#[test]
fn each_field_is_decided_alone() {
    let enrolled = PersonBody::new(stamp(5), "Ann".into());
    let (mut renamed, mut merged) = (enrolled.clone(), enrolled);
    renamed.name = Field::new(stamp(6), "Anna".into());
    merged.merge_into([2; 16], stamp(9));
    let record = |body: &PersonBody| Record::new([1; 16], 0, Body::Person(body.clone())).unwrap();
    let both = record(&renamed).join(&record(&merged));
    let both = both.person().unwrap();
    assert_eq!(both.name.value, "Anna");
    assert_eq!(both.merged, merged.merged);
}

/// Records of one kind and uid with few different values, so that stamps and limits meet often.
fn versions(kind: Kind) -> BoxedStrategy<Record> {
    let stamps = || {
        (0..4_u64, 0..2_u8).prop_map(|(ms, board)| Stamp {
            ms,
            count: 0,
            board: BoardId([board; 8]),
        })
    };
    let vectors = || {
        prop::collection::btree_map("[a-g]", 0..3_u8, 0..=SPACES).prop_map(|spaces| {
            spaces
                .into_iter()
                .map(|(name, byte)| (name, vec![byte; 4]))
                .collect::<Vectors>()
        })
    };
    let body = match kind {
        Kind::Person => {
            let merges = prop::collection::btree_map(0..24_u8, stamps(), 0..=MERGES);
            (stamps(), stamps(), "[ab]", merges)
                .prop_map(|(created, named, name, merged)| {
                    Body::Person(PersonBody {
                        created,
                        name: Field::new(named, name),
                        merged: merged
                            .into_iter()
                            .map(|(into, stamp)| ([into; 16], stamp))
                            .collect(),
                    })
                })
                .boxed()
        }
        Kind::Picture => (stamps(), 0..2_u8, stamps(), any::<bool>(), vectors())
            .prop_map(|(moved, person, taken, zero, vectors)| {
                let mut body = picture().1;
                body.person = Field::new(moved, [person; 16]);
                body.content.stamp = taken;
                body.content.value.quality = if zero { 0.0 } else { -0.0 };
                body.vectors = vectors;
                Body::Picture(body)
            })
            .boxed(),
        Kind::Counter => (vectors(), 0..3_i64)
            .prop_map(|(vectors, created_at_ms)| {
                Body::Counter(CounterBody {
                    vectors,
                    created_at_ms,
                    ..counter().1
                })
            })
            .boxed(),
        Kind::Board => (stamps(), 0..3_u32)
            .prop_map(|(stamp, people)| {
                let mut body = board().1;
                body.state.stamp = stamp;
                body.state.value.people = people;
                Body::Board(body)
            })
            .boxed(),
    };
    let uid = match kind {
        Kind::Person => [1; 16],
        Kind::Picture => picture().0,
        Kind::Counter => counter().0,
        Kind::Board => board().0,
    };
    let last = if kind == Kind::Person { 0 } else { 2_u32 };
    (body, 0..=last, prop::bool::weighted(0.1))
        .prop_map(move |(body, incarnation, erased)| {
            if erased {
                Record::tombstone(kind, uid, incarnation)
            } else {
                Record::new(uid, incarnation, body).unwrap()
            }
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn joining_has_no_order_and_no_repetition(
        (a, b, c) in prop::sample::select(&Kind::ALL[..])
            .prop_flat_map(|kind| (versions(kind), versions(kind), versions(kind)))
    ) {
        prop_assert_eq!(a.join(&a), a.clone());
        prop_assert_eq!(a.join(&b), b.join(&a));
        prop_assert_eq!(a.join(&b).join(&c), a.join(&b.join(&c)));
        let all = a.join(&b).join(&c);
        prop_assert_eq!(all.join(&b), all.clone());
        prop_assert_eq!(Record::decode(&all.encode()), Ok(all));
    }

    #[test]
    fn no_bytes_make_the_reader_stumble(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        }
    }
}

//! The bytes of records: protocol buffers, version 3, with their fields in order. Not for limits.
//!
//! A change of anything here is a new [`VERSION`]: older boards name it and leave the record alone.

use std::collections::BTreeMap;

use prost::Message;

use super::{
    BoardBody, BoardState, Body, Content, CounterBody, Field, Kind, PersonBody, PictureBody,
    Record, RecordError, Uid,
};
use crate::fleet::clock::{BoardId, Stamp};

/// The format that this version writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// The part that every version can read.
#[derive(Clone, PartialEq, Message)]
struct Versioned {
    #[prost(uint32, tag = "1")]
    version: u32,
}

#[derive(Clone, PartialEq, Message)]
struct RecordWire {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(bytes = "vec", tag = "3")]
    uid: Vec<u8>,
    #[prost(uint32, tag = "4")]
    incarnation: u32,
    #[prost(message, optional, tag = "5")]
    person: Option<PersonWire>,
    #[prost(message, optional, tag = "6")]
    picture: Option<PictureWire>,
    #[prost(message, optional, tag = "7")]
    counter: Option<CounterWire>,
    #[prost(message, optional, tag = "8")]
    board: Option<BoardWire>,
    /// Instead of a content, so that a record without its end is no tombstone.
    #[prost(bool, tag = "9")]
    erased: bool,
}

#[derive(Clone, PartialEq, Message)]
struct StampWire {
    #[prost(uint64, tag = "1")]
    ms: u64,
    #[prost(uint32, tag = "2")]
    count: u32,
    #[prost(fixed64, tag = "3")]
    board: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PersonWire {
    #[prost(message, optional, tag = "1")]
    created: Option<StampWire>,
    #[prost(message, optional, tag = "2")]
    named: Option<StampWire>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(message, repeated, tag = "4")]
    merged: Vec<MergeWire>,
}

#[derive(Clone, PartialEq, Message)]
struct MergeWire {
    #[prost(bytes = "vec", tag = "1")]
    into: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    stamp: Option<StampWire>,
}

#[derive(Clone, PartialEq, Message)]
struct PictureWire {
    #[prost(message, optional, tag = "1")]
    moved: Option<StampWire>,
    #[prost(bytes = "vec", tag = "2")]
    person: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    taken: Option<StampWire>,
    #[prost(string, tag = "4")]
    image_name: String,
    #[prost(bytes = "vec", tag = "5")]
    sha256: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    jpeg: Vec<u8>,
    /// Bits of float32, which keep the sign of a zero.
    #[prost(fixed32, repeated, tag = "7")]
    bounds: Vec<u32>,
    #[prost(fixed32, tag = "8")]
    quality: u32,
    #[prost(bytes = "vec", tag = "9")]
    crop: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "10")]
    vectors: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct CounterWire {
    #[prost(bytes = "vec", tag = "1")]
    person: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    crop: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    vectors: BTreeMap<String, Vec<u8>>,
    #[prost(int64, tag = "4")]
    created_at_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
struct BoardWire {
    #[prost(message, optional, tag = "1")]
    told: Option<StampWire>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(string, tag = "4")]
    pack: String,
    #[prost(uint32, tag = "5")]
    people: u32,
    #[prost(uint32, tag = "6")]
    pictures: u32,
    #[prost(uint32, tag = "7")]
    of_people: u32,
    #[prost(uint32, tag = "8")]
    of_pictures: u32,
    #[prost(uint32, tag = "9")]
    waiting: u32,
    #[prost(int64, optional, tag = "10")]
    last_result_ms: Option<i64>,
    #[prost(string, tag = "11")]
    page: String,
    #[prost(int64, tag = "12")]
    at_ms: i64,
}

pub fn encode(record: &Record) -> Vec<u8> {
    let mut wire = RecordWire {
        version: VERSION,
        kind: record.kind as u32,
        uid: record.uid.to_vec(),
        incarnation: record.incarnation,
        ..RecordWire::default()
    };
    match &record.body {
        Some(Body::Person(body)) => wire.person = Some(person_to_wire(body)),
        Some(Body::Picture(body)) => wire.picture = Some(picture_to_wire(body)),
        Some(Body::Counter(body)) => wire.counter = Some(counter_to_wire(body)),
        Some(Body::Board(body)) => wire.board = Some(board_to_wire(&body.state)),
        None => wire.erased = true,
    }
    wire.encode_to_vec()
}

pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
    const UNREADABLE: RecordError = RecordError::Malformed("its bytes cannot be read");
    let Versioned { version } = Versioned::decode(bytes).map_err(|_| UNREADABLE)?;
    if version > VERSION {
        return Err(RecordError::Newer { version });
    }
    let wire = RecordWire::decode(bytes).map_err(|_| UNREADABLE)?;
    let kind = Kind::from_number(wire.kind).ok_or(RecordError::Malformed("its kind is unknown"))?;
    let uid = uid(&wire.uid)?;
    let bodies = [
        wire.person.map(person).transpose()?.map(Body::Person),
        wire.picture.map(picture).transpose()?.map(Body::Picture),
        wire.counter.map(counter).transpose()?.map(Body::Counter),
        wire.board.map(board).transpose()?.map(Body::Board),
    ];
    let mut bodies = bodies.into_iter().flatten();
    let body = bodies.next();
    if body.as_ref().is_some_and(|body| body.kind() != kind) || bodies.next().is_some() {
        return Err(RecordError::Malformed("its content is of another kind"));
    }
    if body.is_some() == wire.erased {
        return Err(RecordError::Malformed("it is neither there nor erased"));
    }
    Ok(Record {
        kind,
        uid,
        incarnation: wire.incarnation,
        body,
    })
}

fn stamp_to_wire(stamp: &Stamp) -> Option<StampWire> {
    Some(StampWire {
        ms: stamp.ms,
        count: stamp.count,
        board: u64::from_be_bytes(stamp.board.0),
    })
}

fn stamp(wire: Option<StampWire>) -> Result<Stamp, RecordError> {
    let wire = wire.ok_or(RecordError::Malformed("an edit has no time"))?;
    Ok(Stamp {
        ms: wire.ms,
        count: wire.count,
        board: BoardId(wire.board.to_be_bytes()),
    })
}

fn uid(bytes: &[u8]) -> Result<Uid, RecordError> {
    bytes
        .try_into()
        .map_err(|_| RecordError::Malformed("a number has not 16 bytes"))
}

fn person_to_wire(body: &PersonBody) -> PersonWire {
    let merged = body.merged.iter().map(|(into, stamp)| MergeWire {
        into: into.to_vec(),
        stamp: stamp_to_wire(stamp),
    });
    PersonWire {
        created: stamp_to_wire(&body.created),
        named: stamp_to_wire(&body.name.stamp),
        name: body.name.value.clone(),
        merged: merged.collect(),
    }
}

fn person(wire: PersonWire) -> Result<PersonBody, RecordError> {
    let merged = wire.merged.into_iter();
    Ok(PersonBody {
        created: stamp(wire.created)?,
        name: Field::new(stamp(wire.named)?, wire.name),
        merged: merged
            .map(|merge| Ok((uid(&merge.into)?, stamp(merge.stamp)?)))
            .collect::<Result<_, RecordError>>()?,
    })
}

fn picture_to_wire(body: &PictureBody) -> PictureWire {
    let content = &body.content.value;
    PictureWire {
        moved: stamp_to_wire(&body.person.stamp),
        person: body.person.value.to_vec(),
        taken: stamp_to_wire(&body.content.stamp),
        image_name: content.image_name.clone(),
        sha256: content.sha256.to_vec(),
        jpeg: content.jpeg.clone(),
        bounds: content.bounds.map(f32::to_bits).to_vec(),
        quality: content.quality.to_bits(),
        crop: content.crop.clone(),
        vectors: body.vectors.clone(),
    }
}

fn picture(wire: PictureWire) -> Result<PictureBody, RecordError> {
    let sha256 = wire.sha256.try_into();
    let bounds: Result<[u32; 4], _> = wire.bounds.try_into();
    let content = Content {
        image_name: wire.image_name,
        sha256: sha256.map_err(|_| RecordError::Malformed("a sum has not 32 bytes"))?,
        jpeg: wire.jpeg,
        bounds: bounds
            .map_err(|_| RecordError::Malformed("a face has not four bounds"))?
            .map(f32::from_bits),
        quality: f32::from_bits(wire.quality),
        crop: wire.crop,
    };
    Ok(PictureBody {
        person: Field::new(stamp(wire.moved)?, uid(&wire.person)?),
        content: Field::new(stamp(wire.taken)?, content),
        vectors: wire.vectors,
    })
}

fn counter_to_wire(body: &CounterBody) -> CounterWire {
    CounterWire {
        person: body.person.to_vec(),
        crop: body.crop.clone(),
        vectors: body.vectors.clone(),
        created_at_ms: body.created_at_ms,
    }
}

fn counter(wire: CounterWire) -> Result<CounterBody, RecordError> {
    Ok(CounterBody {
        person: uid(&wire.person)?,
        crop: wire.crop,
        vectors: wire.vectors,
        created_at_ms: wire.created_at_ms,
    })
}

fn board_to_wire(field: &Field<BoardState>) -> BoardWire {
    let state = &field.value;
    BoardWire {
        told: stamp_to_wire(&field.stamp),
        name: state.name.clone(),
        version: state.version.clone(),
        pack: state.pack.clone(),
        people: state.people,
        pictures: state.pictures,
        of_people: state.of_people,
        of_pictures: state.of_pictures,
        waiting: state.waiting,
        last_result_ms: state.last_result_ms,
        page: state.page.clone(),
        at_ms: state.at_ms,
    }
}

fn board(wire: BoardWire) -> Result<BoardBody, RecordError> {
    let state = BoardState {
        name: wire.name,
        version: wire.version,
        pack: wire.pack,
        people: wire.people,
        pictures: wire.pictures,
        of_people: wire.of_people,
        of_pictures: wire.of_pictures,
        waiting: wire.waiting,
        last_result_ms: wire.last_result_ms,
        page: wire.page,
        at_ms: wire.at_ms,
    };
    Ok(BoardBody {
        state: Field::new(stamp(wire.told)?, state),
    })
}

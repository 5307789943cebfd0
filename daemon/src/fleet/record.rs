//! The records of a fleet, and how two versions of one are joined.
//!
//! A set of records is a join-semilattice: received in any order and any number of times, the same
//! records make the same people (Shapiro et al., "Conflict-free Replicated Data Types", SSS 2011).
//! Not for who is shown under which name; `standing` has that.

mod wire;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::clock::{BoardId, LATEST_MS, Stamp};

/// Most characters of a person's name, and of a board's.
pub const NAME_CHARS: usize = 200;
/// Most characters of a picture's name, and of the address of a board's page.
pub const IMAGE_NAME_CHARS: usize = 255;
/// Most characters of the name of an embedding space, of a version and of a pack.
pub const WORD_CHARS: usize = 128;
/// Most bytes of a picture: the face with enough around it to be found, aligned and embedded.
pub const JPEG_BYTES: usize = 200 * 1024;
/// Most bytes of an aligned face.
pub const CROP_BYTES: usize = 32 * 1024;
/// Most bytes of an embedding.
pub const VECTOR_BYTES: usize = 8 * 1024;
/// Most spaces with an embedding in one record: those with the smallest names stay.
pub const SPACES: usize = 4;
/// Most people that one was merged into, by boards that did not know of each other: the latest stay.
pub const MERGES: usize = 16;
/// Most times that one picture is removed and enrolled again.
pub const INCARNATIONS: u32 = 1 << 20;
/// Most bytes of an encoded record.
pub const RECORD_BYTES: usize = 300 * 1024;

/// The number of a person, a picture, a counter-example or a board: never a name or a row number.
pub type Uid = [u8; 16];

/// Returns the uid of a picture: the first 16 bytes of the SHA-256 of the bytes that it was
/// enrolled from, so that one picture enrolled on two boards is one record.
pub fn picture_uid(sha256: &[u8; 32]) -> Uid {
    first_16(sha256)
}

/// Returns the uid of a counter-example: the first 16 bytes of SHA-256(person ‖ aligned face).
pub fn counter_uid(person: &Uid, crop: &[u8]) -> Uid {
    let sum = Sha256::new().chain_update(person).chain_update(crop);
    first_16(&sum.finalize().into())
}

/// Returns the uid of a board's record: its number and eight zeros.
pub fn board_uid(board: BoardId) -> Uid {
    let mut uid = [0; 16];
    uid[..8].copy_from_slice(&board.0);
    uid
}

fn first_16(sum: &[u8; 32]) -> Uid {
    let mut uid = [0; 16];
    uid.copy_from_slice(&sum[..16]);
    uid
}

/// The kind of what a record tells of. The numbers are those of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A person.
    Person = 1,
    /// A picture that a person was enrolled from.
    Picture = 2,
    /// A face that is not a person's.
    Counter = 3,
    /// The state of a board.
    Board = 4,
}

impl Kind {
    /// Every kind, by its number.
    pub const ALL: [Self; 4] = [Self::Person, Self::Picture, Self::Counter, Self::Board];

    /// Returns the kind of a number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    /// Returns its name in sentences.
    pub fn word(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Picture => "picture",
            Self::Counter => "counter-example",
            Self::Board => "board",
        }
    }
}

/// A reason why bytes are no record, or why something cannot become one. The sentence is for the
/// operator.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Another format than this version of kithd reads.
    #[error(
        "it was made by a newer kithd (format {version}; this one reads format {}): update this board",
        wire::VERSION
    )]
    Newer {
        /// The format.
        version: u32,
    },
    /// More than a limit.
    #[error("its {what} has {size} {unit}, and {limit} is the limit")]
    TooLarge {
        /// The part that is too large.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The largest size.
        limit: usize,
        /// The unit of both.
        unit: &'static str,
    },
    /// No record.
    #[error("it is no record of a fleet: {0}")]
    Malformed(&'static str),
}

/// A value of which the last edit wins. Of equal stamps, which only cloned boards issue, the larger
/// value wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field<T> {
    /// The edit.
    pub stamp: Stamp,
    /// The value since.
    pub value: T,
}

impl<T: Ord + Clone> Field<T> {
    /// Makes a field as an edit left it.
    pub fn new(stamp: Stamp, value: T) -> Self {
        Self { stamp, value }
    }

    fn join(&self, other: &Self) -> Self {
        self.max(other).clone()
    }
}

/// The content of a person's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonBody {
    /// The enrolment; the earliest counts.
    pub created: Stamp,
    /// The name, 1 to [`NAME_CHARS`] characters.
    pub name: Field<String>,
    /// The people that this one was merged into, with the latest merge into each. Merges are never
    /// taken back; `standing` says which one counts.
    pub merged: BTreeMap<Uid, Stamp>,
}

impl PersonBody {
    /// Makes the content of a person enrolled by the edit `stamp`.
    pub fn new(stamp: Stamp, name: String) -> Self {
        Self {
            created: stamp,
            name: Field::new(stamp, name),
            merged: BTreeMap::new(),
        }
    }

    /// Notes that the person became `into`.
    pub fn merge_into(&mut self, into: Uid, stamp: Stamp) {
        let last = self.merged.entry(into).or_insert(stamp);
        *last = stamp.max(*last);
        limit_merges(&mut self.merged);
    }
}

/// A picture, as the edit that enrolled it left it.
#[derive(Debug, Clone)]
pub struct Content {
    /// File name that it was enrolled under, at most [`IMAGE_NAME_CHARS`] characters.
    pub image_name: String,
    /// SHA-256 of the bytes that it was enrolled from.
    pub sha256: [u8; 32],
    /// The face with enough around it, JPEG, at most [`JPEG_BYTES`]. Empty: it is lost.
    pub jpeg: Vec<u8>,
    /// Left, top, right and bottom of the face in `jpeg`, in pixels.
    pub bounds: [f32; 4],
    /// Suitability for recognition, 0 to 1.
    pub quality: f32,
    /// The aligned face, JPEG, at most [`CROP_BYTES`]. Empty: there is none.
    pub crop: Vec<u8>,
}

impl Content {
    /// Returns all of it in a form that has an order. Floats are compared by their bits, as they are
    /// encoded.
    fn key(&self) -> impl Ord {
        (
            &self.image_name,
            &self.sha256,
            &self.jpeg,
            self.bounds.map(f32::to_bits),
            self.quality.to_bits(),
            &self.crop,
        )
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Content {}

impl PartialOrd for Content {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Content {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// The embeddings of a face by the name of their space, little-endian float32, each at most
/// [`VECTOR_BYTES`], of at most [`SPACES`] spaces.
pub type Vectors = BTreeMap<String, Vec<u8>>;

/// The content of a picture's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureBody {
    /// The person it enrols.
    pub person: Field<Uid>,
    /// The picture.
    pub content: Field<Content>,
    /// Its embeddings; of two in one space the larger bytes win.
    pub vectors: Vectors,
}

/// The content of a counter-example's record. Person and face follow from the uid and never change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterBody {
    /// The person it is not.
    pub person: Uid,
    /// The aligned face, JPEG, 1 to [`CROP_BYTES`] bytes.
    pub crop: Vec<u8>,
    /// Its embeddings; of two in one space the larger bytes win.
    pub vectors: Vectors,
    /// Milliseconds since 1970; the earliest counts.
    pub created_at_ms: i64,
}

/// The state of a board, by the board itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BoardState {
    /// Its name, at most [`NAME_CHARS`] characters.
    pub name: String,
    /// Version of kithd, at most [`WORD_CHARS`] characters.
    pub version: String,
    /// Model pack, at most [`WORD_CHARS`] characters.
    pub pack: String,
    /// People in its gallery.
    pub people: u32,
    /// Pictures in its gallery.
    pub pictures: u32,
    /// People of the fleet that it knows of.
    pub of_people: u32,
    /// Pictures of the fleet that it knows of.
    pub of_pictures: u32,
    /// Records that wait to be sent.
    pub waiting: u32,
    /// Its last result, in milliseconds since 1970; `None`: there is none.
    pub last_result_ms: Option<i64>,
    /// Address of its page, at most [`IMAGE_NAME_CHARS`] characters. Empty: it has none.
    pub page: String,
    /// When it said so, in milliseconds since 1970 by its wall clock.
    pub at_ms: i64,
}

/// The content of a board's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoardBody {
    /// The state it told last.
    pub state: Field<BoardState>,
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The content of a person's record.
    Person(PersonBody),
    /// The content of a picture's record.
    Picture(PictureBody),
    /// The content of a counter-example's record.
    Counter(CounterBody),
    /// The content of a board's record.
    Board(BoardBody),
}

impl Body {
    fn kind(&self) -> Kind {
        match self {
            Self::Person(_) => Kind::Person,
            Self::Picture(_) => Kind::Picture,
            Self::Counter(_) => Kind::Counter,
            Self::Board(_) => Kind::Board,
        }
    }

    fn join(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Person(a), Self::Person(b)) => {
                let mut merged = joined(&a.merged, &b.merged);
                limit_merges(&mut merged);
                Self::Person(PersonBody {
                    created: a.created.min(b.created),
                    name: a.name.join(&b.name),
                    merged,
                })
            }
            (Self::Picture(a), Self::Picture(b)) => Self::Picture(PictureBody {
                person: a.person.join(&b.person),
                content: a.content.join(&b.content),
                vectors: joined_vectors(&a.vectors, &b.vectors),
            }),
            (Self::Counter(a), Self::Counter(b)) => Self::Counter(CounterBody {
                person: a.person.min(b.person),
                crop: (&a.crop).max(&b.crop).clone(),
                vectors: joined_vectors(&a.vectors, &b.vectors),
                created_at_ms: a.created_at_ms.min(b.created_at_ms),
            }),
            (Self::Board(a), Self::Board(b)) => Self::Board(BoardBody {
                state: a.state.join(&b.state),
            }),
            _ => if self.kind() < other.kind() {
                other
            } else {
                self
            }
            .clone(),
        }
    }
}

/// Returns the union of two maps; of two values under one key the larger.
fn joined<K: Ord + Clone, V: Ord + Clone>(
    a: &BTreeMap<K, V>,
    b: &BTreeMap<K, V>,
) -> BTreeMap<K, V> {
    let mut all = a.clone();
    for (key, value) in b {
        if all.get(key).is_none_or(|ours| ours < value) {
            all.insert(key.clone(), value.clone());
        }
    }
    all
}

fn joined_vectors(a: &Vectors, b: &Vectors) -> Vectors {
    let mut all = joined(a, b);
    while all.len() > SPACES {
        all.pop_last();
    }
    all
}

/// Removes the earliest merges beyond the limit. An entry that goes has [`MERGES`] later ones, which
/// only grow, so the order of joins does not matter.
fn limit_merges(merged: &mut BTreeMap<Uid, Stamp>) {
    while merged.len() > MERGES {
        let earliest = merged.iter().map(|(uid, stamp)| (*stamp, *uid)).min();
        if let Some((_, uid)) = earliest {
            merged.remove(&uid);
        }
    }
}

/// A version of a record: what a board knows of a person, a picture, a counter-example or a board.
///
/// Made by [`Record::new`], [`Record::tombstone`], [`Record::join`] and [`Record::decode`], which
/// keep it within the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    kind: Kind,
    uid: Uid,
    incarnation: u32,
    body: Option<Body>,
}

impl Record {
    /// Makes the record of what is there. `incarnation` is 0, or what [`Record::next_incarnation`]
    /// of the former record said. Fails if it is over a limit or does not fit the uid.
    pub fn new(uid: Uid, incarnation: u32, body: Body) -> Result<Self, RecordError> {
        let record = Self {
            kind: body.kind(),
            uid,
            incarnation,
            body: Some(body),
        };
        record.check()?;
        Ok(record)
    }

    /// Makes the record of what was erased: a few bytes without content.
    pub fn tombstone(kind: Kind, uid: Uid, incarnation: u32) -> Self {
        Self {
            kind,
            uid,
            incarnation,
            body: None,
        }
    }

    /// Returns what kind of thing it tells of.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns which one it tells of.
    pub fn uid(&self) -> &Uid {
        &self.uid
    }

    /// Returns how often it was removed and enrolled again.
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Returns the content; `None`: erased.
    pub fn body(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    /// Returns the content of a person who is not erased.
    pub fn person(&self) -> Option<&PersonBody> {
        match &self.body {
            Some(Body::Person(body)) => Some(body),
            _ => None,
        }
    }

    /// Returns the content of a picture that is there.
    pub fn picture(&self) -> Option<&PictureBody> {
        match &self.body {
            Some(Body::Picture(body)) => Some(body),
            _ => None,
        }
    }

    /// Returns the content of a counter-example that is there.
    pub fn counter(&self) -> Option<&CounterBody> {
        match &self.body {
            Some(Body::Counter(body)) => Some(body),
            _ => None,
        }
    }

    /// Returns the content of a board that is in the fleet.
    pub fn board(&self) -> Option<&BoardBody> {
        match &self.body {
            Some(Body::Board(body)) => Some(body),
            _ => None,
        }
    }

    /// Returns the record that erases this one, in the same incarnation.
    pub fn erased(&self) -> Self {
        Self::tombstone(self.kind, self.uid, self.incarnation)
    }

    /// Returns the incarnation in which it can be enrolled again after it was removed. `None`: never;
    /// an erased person does not come back under the same uid.
    pub fn next_incarnation(&self) -> Option<u32> {
        (self.kind != Kind::Person && self.incarnation < INCARNATIONS)
            .then_some(self.incarnation + 1)
    }

    /// Joins two versions of one record: commutative, associative and idempotent. The later
    /// incarnation wins; within one, erased wins; else each field is decided alone.
    pub fn join(&self, other: &Self) -> Self {
        debug_assert_eq!((self.kind, self.uid), (other.kind, other.uid));
        match self.incarnation.cmp(&other.incarnation) {
            Ordering::Less => return other.clone(),
            Ordering::Greater => return self.clone(),
            Ordering::Equal => {}
        }
        let body = match (&self.body, &other.body) {
            (Some(ours), Some(theirs)) => Some(ours.join(theirs)),
            _ => None,
        };
        Self { body, ..*self }
    }

    /// Returns the latest stamp in it, which the clock of a board that takes it has to see. `None`:
    /// it has none.
    pub fn latest(&self) -> Option<Stamp> {
        match self.body.as_ref()? {
            Body::Person(body) => {
                let edits = [body.created, body.name.stamp];
                edits.into_iter().chain(body.merged.values().copied()).max()
            }
            Body::Picture(body) => Some(body.person.stamp.max(body.content.stamp)),
            Body::Counter(_) => None,
            Body::Board(body) => Some(body.state.stamp),
        }
    }

    /// Returns the bytes of the record. They are canonical: equal records have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    /// Reads a record. Fails if it was made by a newer kithd, is over a limit, or is malformed, which
    /// includes bytes that [`Record::encode`] would not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        at_most("record", bytes.len(), RECORD_BYTES, "bytes")?;
        let record = wire::decode(bytes)?;
        record.check()?;
        if record.encode() != bytes {
            return Err(RecordError::Malformed("its bytes are not canonical"));
        }
        Ok(record)
    }

    fn check(&self) -> Result<(), RecordError> {
        at_most(
            "incarnation",
            self.incarnation as usize,
            INCARNATIONS as usize,
            "repetitions",
        )?;
        if self.kind == Kind::Person && self.incarnation != 0 {
            return Err(RecordError::Malformed("an erased person came back"));
        }
        if self.kind == Kind::Board && self.uid[8..] != [0; 8] {
            return Err(RecordError::Malformed("a board's number is too long"));
        }
        if self.latest().is_some_and(|stamp| stamp.ms > LATEST_MS) {
            return Err(RecordError::Malformed("its time is after the year 2248"));
        }
        match &self.body {
            Some(Body::Person(body)) => body.check(),
            Some(Body::Picture(body)) => body.check(&self.uid),
            Some(Body::Counter(body)) => body.check(&self.uid),
            Some(Body::Board(body)) => body.state.value.check(),
            None => Ok(()),
        }
    }
}

impl PersonBody {
    fn check(&self) -> Result<(), RecordError> {
        text("name", &self.name.value, NAME_CHARS)?;
        if self.name.value.is_empty() {
            return Err(RecordError::Malformed("a person has no name"));
        }
        at_most("list of merges", self.merged.len(), MERGES, "people")
    }
}

impl PictureBody {
    fn check(&self, uid: &Uid) -> Result<(), RecordError> {
        let content = &self.content.value;
        if picture_uid(&content.sha256) != *uid {
            return Err(RecordError::Malformed("a picture has another's number"));
        }
        text("picture's name", &content.image_name, IMAGE_NAME_CHARS)?;
        at_most("picture", content.jpeg.len(), JPEG_BYTES, "bytes")?;
        at_most("face", content.crop.len(), CROP_BYTES, "bytes")?;
        let numbers = content.bounds.iter().chain([&content.quality]);
        if !numbers.copied().all(f32::is_finite) {
            return Err(RecordError::Malformed("a number is not finite"));
        }
        check_vectors(&self.vectors)
    }
}

impl CounterBody {
    fn check(&self, uid: &Uid) -> Result<(), RecordError> {
        if counter_uid(&self.person, &self.crop) != *uid {
            return Err(RecordError::Malformed(
                "a counter-example has another's number",
            ));
        }
        at_most("face", self.crop.len(), CROP_BYTES, "bytes")?;
        if self.crop.is_empty() {
            return Err(RecordError::Malformed("a counter-example has no face"));
        }
        check_vectors(&self.vectors)
    }
}

impl BoardState {
    fn check(&self) -> Result<(), RecordError> {
        text("name", &self.name, NAME_CHARS)?;
        text("version", &self.version, WORD_CHARS)?;
        text("pack", &self.pack, WORD_CHARS)?;
        text("page", &self.page, IMAGE_NAME_CHARS)
    }
}

fn check_vectors(vectors: &Vectors) -> Result<(), RecordError> {
    at_most("list of embeddings", vectors.len(), SPACES, "spaces")?;
    for (space, vector) in vectors {
        text("embedding space", space, WORD_CHARS)?;
        at_most("embedding", vector.len(), VECTOR_BYTES, "bytes")?;
        let (numbers, rest) = vector.as_chunks::<4>();
        let finite = |number: &[u8; 4]| f32::from_le_bytes(*number).is_finite();
        if numbers.is_empty() || !rest.is_empty() || !numbers.iter().all(finite) {
            return Err(RecordError::Malformed("an embedding is no list of numbers"));
        }
    }
    Ok(())
}

fn text(what: &'static str, text: &str, limit: usize) -> Result<(), RecordError> {
    if text.contains(char::is_control) {
        return Err(RecordError::Malformed("a text has control characters"));
    }
    at_most(what, text.chars().count(), limit, "characters")
}

fn at_most(
    what: &'static str,
    size: usize,
    limit: usize,
    unit: &'static str,
) -> Result<(), RecordError> {
    if size <= limit {
        return Ok(());
    }
    Err(RecordError::TooLarge {
        what,
        size,
        limit,
        unit,
    })
}

#[cfg(test)]
mod tests;

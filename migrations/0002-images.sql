-- The queue and its history in one table: an image keeps its row for good.
-- Times ending in _ms are wall clock, for people. Only due_ms and missing_since_ms are queue clock:
-- milliseconds this database has been in use, unaffected by a wrong board clock.
CREATE TABLE images (
  id               INTEGER PRIMARY KEY AUTOINCREMENT,
  state            TEXT    NOT NULL DEFAULT 'pending'
                   CHECK (state IN ('pending', 'processing', 'processed', 'failed')),
  source           TEXT    NOT NULL CHECK (source IN ('http', 'mqtt', 'folder', 'camera')),
  path             TEXT    NOT NULL,             -- as the sender named it
  file             TEXT,                         -- spooled bytes, relative to the state folder; NULL: read `path`
  idempotency_key  TEXT,
  attempts         INTEGER NOT NULL DEFAULT 0,   -- counted at claim, so a crash counts too
  alone            INTEGER NOT NULL DEFAULT 0,   -- 1: it was in flight when kithd died, run it by itself
  due_ms           INTEGER NOT NULL DEFAULT 0,   -- queue clock
  missing_since_ms INTEGER,                      -- queue clock of the first time the file was not there
  outcome          TEXT    CHECK (outcome IN ('known', 'uncertain', 'unknown', 'no_face')),
  reason           TEXT,                         -- last failure, or why it failed, in words
  engine           TEXT,                         -- pack, precision and device that made the result
  picture_key      TEXT,                         -- sha256 of the bytes: equal pictures on any board
  width            INTEGER,
  height           INTEGER,
  accepted_at_ms   INTEGER NOT NULL,
  finished_at_ms   INTEGER,
  duration_ms      INTEGER,                      -- claim to finish of the last attempt
  CHECK ((state = 'processed') = (outcome IS NOT NULL)),
  CHECK (state <> 'failed' OR reason IS NOT NULL)
) STRICT;
CREATE INDEX images_due ON images (due_ms, id) WHERE state = 'pending';
CREATE INDEX images_alone ON images (state, due_ms) WHERE alone = 1;
CREATE INDEX images_state ON images (state);
CREATE INDEX images_spooled ON images (id) WHERE file IS NOT NULL;
CREATE INDEX images_unfinished_path ON images (path) WHERE state IN ('pending', 'processing');
CREATE UNIQUE INDEX images_idempotency_key ON images (idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE thumbnails (
  image_id INTEGER PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
  jpeg     BLOB NOT NULL
) STRICT;

CREATE TABLE faces (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  image_id  INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
  number    INTEGER NOT NULL,                    -- 1 is the best of the image
  bounds    TEXT    NOT NULL,                    -- JSON [left, top, right, bottom], pixels
  landmarks TEXT    NOT NULL,                    -- JSON [[x, y] × 5], pixels: eyes, nose tip, mouth corners
  score     REAL    NOT NULL,
  quality   REAL    NOT NULL,
  outcome   TEXT    NOT NULL CHECK (outcome IN ('known', 'uncertain', 'unknown')),
  person_id INTEGER REFERENCES person (id) ON DELETE SET NULL,
  distance  REAL,                                -- to the nearest enrolled picture
  margin    REAL,                                -- how much farther the next person is
  space     TEXT    NOT NULL,
  embedding BLOB    NOT NULL,                    -- little-endian float32
  crop      BLOB    NOT NULL,                    -- small aligned JPEG
  UNIQUE (image_id, number)
) STRICT;
CREATE INDEX faces_person ON faces (person_id);

CREATE TABLE face_candidates (
  face_id   INTEGER NOT NULL REFERENCES faces (id) ON DELETE CASCADE,
  rank      INTEGER NOT NULL,
  person_id INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
  distance  REAL    NOT NULL,
  PRIMARY KEY (face_id, rank)
) STRICT, WITHOUT ROWID;
CREATE INDEX face_candidates_person ON face_candidates (person_id);

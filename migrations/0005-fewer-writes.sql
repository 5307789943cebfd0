-- Fewer writes to SD cards: an image touches as few pages as possible, because each is written to
-- the journal and to the database. From now on `images.unverified` names the engine that made the
-- result, vouched for or not. The facts `verified_1` and `verified_2` hold the newest result that
-- the self-test vouched for.
DROP INDEX images_due;
DROP INDEX images_state;
DROP INDEX images_unverified;
DROP INDEX images_unfinished_path;
CREATE INDEX images_state_due ON images (state, due_ms);
-- Only an unfinished path from MQTT is dropped when MQTT sends it again.
CREATE INDEX images_unfinished_path ON images (path) WHERE source = 'mqtt' AND state IN ('pending', 'processing');

-- A single tree instead of five. Erasing a person reads all faces, as well as all results, which
-- name candidates too.
CREATE TABLE image_faces (
  image_id   INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
  number     INTEGER NOT NULL,                   -- 1 is the best of the image
  outcome    TEXT    NOT NULL CHECK (outcome IN ('known', 'uncertain', 'unknown')),
  person_id  INTEGER REFERENCES person (id) ON DELETE SET NULL,
  distance   REAL,                               -- to the nearest enrolled picture
  margin     REAL,                               -- how much farther the next person is
  candidates TEXT    NOT NULL,                   -- JSON [[person id, distance], …], nearest first
  score      REAL    NOT NULL,
  quality    REAL    NOT NULL,
  bounds     TEXT    NOT NULL,                   -- JSON [left, top, right, bottom], pixels
  landmarks  TEXT    NOT NULL,                   -- JSON [[x, y] × 5], pixels: eyes, nose tip, mouth corners
  space      TEXT    NOT NULL,
  embedding  BLOB    NOT NULL,                   -- little-endian float32
  crop       BLOB    NOT NULL,                   -- small aligned JPEG
  PRIMARY KEY (image_id, number)
) STRICT, WITHOUT ROWID;
INSERT INTO image_faces
  SELECT image_id, number, outcome, person_id, distance, margin,
         (SELECT json_group_array(json_array(person_id, distance))
            FROM (SELECT person_id, distance FROM face_candidates WHERE face_id = faces.id ORDER BY rank)),
         score, quality, bounds, landmarks, space, embedding, crop
    FROM faces;
DROP TABLE face_candidates;
DROP TABLE faces;
ALTER TABLE image_faces RENAME TO faces;

-- A result is written once. Undelivered results are listed in a table that fits into one page.
CREATE TABLE results (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  image_id      INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
  result_id     TEXT    NOT NULL,                -- unique by how it is made
  created_at_ms INTEGER NOT NULL,
  refused       TEXT,                            -- the broker's reason when it refused
  payload       TEXT    NOT NULL
) STRICT;
CREATE TABLE unsent (
  id    INTEGER PRIMARY KEY REFERENCES results (id) ON DELETE CASCADE,
  tries INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO results SELECT id, image_id, result_id, created_at_ms, note, payload FROM outbox;
INSERT INTO unsent SELECT id, tries FROM outbox WHERE state = 'unsent';
DROP TABLE outbox;
ALTER TABLE results RENAME TO outbox;
CREATE INDEX outbox_image ON outbox (image_id);

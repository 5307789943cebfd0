-- Indexes for finding images quickly; strangers, counter-examples and tombstones. A list by one of
-- these columns is read from its index, newest first, whatever other filters apply.
CREATE INDEX images_outcome ON images (outcome, id) WHERE outcome IN ('known', 'uncertain');
CREATE INDEX images_failed ON images (id) WHERE state = 'failed';
CREATE INDEX faces_person ON faces (person_id, image_id) WHERE person_id IS NOT NULL;
-- Faces that retention erases, whenever they became unknown. store/retention.rs repeats these exact
-- words.
CREATE INDEX faces_strangers ON faces (image_id) WHERE outcome = 'unknown' AND length(embedding) + length(crop) > 0;

-- Random id that names a person in backups and tombstones without revealing who it is.
ALTER TABLE person ADD COLUMN uid BLOB;
UPDATE person SET uid = randomblob(16);
CREATE UNIQUE INDEX person_uid ON person (uid);
-- Crop of the enrolled face, JPEG; NULL: enrolled before this migration.
ALTER TABLE person_images ADD COLUMN crop BLOB;

-- Tombstones keep a restored backup from bringing erased people back. `merged` keeps it from
-- splitting merged people.
CREATE TABLE erased (
  uid          BLOB    PRIMARY KEY,
  erased_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE merged (
  uid       BLOB PRIMARY KEY,
  into_uid  BLOB NOT NULL,
  person_id INTEGER                              -- under which past results name them; NULL: known from a backup only
) STRICT, WITHOUT ROWID;

-- Faces that an operator said are not this person.
CREATE TABLE counter_examples (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  person_id     INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
  space         TEXT    NOT NULL,
  vector        BLOB    NOT NULL,                -- little-endian float32
  crop          BLOB    NOT NULL,                -- aligned JPEG, to be embedded again in another space
  created_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX counter_examples_person ON counter_examples (person_id);

-- Unknown faces grouped by likeness. A group keeps its number, and no number is used twice.
CREATE TABLE strangers (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  space         TEXT    NOT NULL,
  total         BLOB    NOT NULL,                -- sum of the embeddings that shape it, little-endian float32
  weight        INTEGER NOT NULL,                -- how many those are; 0: a face has left it, sum up again
  faces         INTEGER NOT NULL,                -- how many faces belong to it now
  first_seen_ms INTEGER NOT NULL,                -- wall clock, for people
  last_seen_ms  INTEGER NOT NULL,
  ignored       INTEGER NOT NULL DEFAULT 0,
  person_id     INTEGER REFERENCES person (id) ON DELETE SET NULL  -- who it was named; its faces are being relabelled
) STRICT;
CREATE INDEX strangers_seen ON strangers (ignored, last_seen_ms);
CREATE INDEX strangers_left ON strangers (id) WHERE weight = 0;
CREATE INDEX strangers_named ON strangers (person_id) WHERE person_id IS NOT NULL;
CREATE TABLE stranger_faces (
  image_id    INTEGER NOT NULL,
  number      INTEGER NOT NULL,
  stranger_id INTEGER NOT NULL REFERENCES strangers (id) ON DELETE CASCADE,
  PRIMARY KEY (image_id, number),
  FOREIGN KEY (image_id, number) REFERENCES faces (image_id, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX stranger_faces_group ON stranger_faces (stranger_id, image_id, number);
-- A face that is erased, deleted or named leaves its group, and the group's sum is recomputed
-- without it.
CREATE TRIGGER stranger_face_left AFTER DELETE ON stranger_faces BEGIN
  UPDATE strangers SET faces = faces - 1, total = x'', weight = 0 WHERE id = old.stranger_id;
  DELETE FROM strangers WHERE id = old.stranger_id AND faces <= 0;
END;
CREATE TRIGGER face_is_no_stranger AFTER UPDATE OF outcome, embedding ON faces
  WHEN new.outcome <> 'unknown' OR length(new.embedding) = 0 BEGIN
  DELETE FROM stranger_faces WHERE image_id = new.image_id AND number = new.number;
END;

-- The board by the minute, for the charts; kept for a week.
CREATE TABLE history (
  minute       INTEGER PRIMARY KEY,              -- wall clock, minutes since 1970
  pending      INTEGER NOT NULL,                 -- at its end
  accepted     INTEGER NOT NULL,                 -- in it
  processed    INTEGER NOT NULL,
  failed       INTEGER NOT NULL,
  stages       TEXT    NOT NULL,                 -- JSON [decode, detect, align, embed, encode], mean milliseconds a picture
  celsius      REAL                              -- hottest sensor of the board; NULL: it has none
) STRICT;
CREATE TABLE breaker_history (
  id     INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ms  INTEGER NOT NULL,                       -- wall clock
  state  TEXT    NOT NULL,
  reason TEXT                                    -- a sentence
) STRICT;

-- Number of images in each state, maintained by triggers, because counting a million rows takes too
-- long.
CREATE TABLE tally (
  state  TEXT    PRIMARY KEY,
  images INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO tally VALUES ('pending', 0), ('processing', 0), ('processed', 0), ('failed', 0);
UPDATE tally SET images = (SELECT count(*) FROM images WHERE images.state = tally.state);
CREATE TRIGGER images_arrive AFTER INSERT ON images BEGIN
  UPDATE tally SET images = images + 1 WHERE state = new.state;
END;
CREATE TRIGGER images_move AFTER UPDATE OF state ON images WHEN old.state <> new.state BEGIN
  UPDATE tally SET images = images - 1 WHERE state = old.state;
  UPDATE tally SET images = images + 1 WHERE state = new.state;
END;
CREATE TRIGGER images_leave AFTER DELETE ON images BEGIN
  UPDATE tally SET images = images - 1 WHERE state = old.state;
END;

-- The whole schema of `kithd.db`, in the order data flows: people and the fleet that shares them,
-- images and their faces, results, strangers, what is remembered about files and messages, and the
-- board itself.
--
-- Times ending in _ms are wall clock, in milliseconds since 1970: for people to read, never for
-- order. Only due_ms, missing_since_ms and those that end in came_ms are queue clock: milliseconds
-- this database has been in use, unaffected by a wrong board clock. Order is by id.
-- Every vector ends with the first four bytes of the sha256 of the numbers before them: SQLite would
-- not notice a bit flipped on the disk.

-- People

-- An enrolled person. facerecog's join works on these tables:
--   select person.name, person.id from person
--     inner join person_images as pi on person.id = pi.person_id where image_name = 'hannibal_2.jpg';
CREATE TABLE person (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  name          TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 200),
  created_at_ms INTEGER NOT NULL,
  uid           BLOB,                            -- random; names the person in backups and tombstones, and reveals nothing
  -- Derived from the name by `names.rs`; NULL in a row that another program wrote, until the
  -- database is opened.
  folded        TEXT,                            -- for comparing: one person per folded name
  base          TEXT,                            -- for ordering and searching: without accents
  topic         TEXT                             -- last level of the person's topic
) STRICT;
CREATE UNIQUE INDEX person_uid ON person (uid);
CREATE UNIQUE INDEX person_folded ON person (folded);
CREATE UNIQUE INDEX person_topic ON person (topic);
CREATE INDEX person_order ON person (base, folded, id);

-- A picture that a person was enrolled from.
CREATE TABLE person_images (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  person_id     INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
  image_name    TEXT    NOT NULL,                -- file name it was enrolled under
  sha256        TEXT    NOT NULL UNIQUE,         -- of its bytes: one picture enrols one person, once
  bounds        TEXT    NOT NULL,                -- JSON [left, top, right, bottom] of the enrolled face, pixels
  quality       REAL    NOT NULL,                -- 0 to 1
  created_at_ms INTEGER NOT NULL,
  crop          BLOB                             -- the enrolled face, aligned JPEG; NULL: there is none
) STRICT;
CREATE INDEX person_images_person ON person_images (person_id);
CREATE INDEX person_images_name ON person_images (image_name);

-- The original bytes of such a picture, to be embedded again by another model pack. In a table of
-- their own, because merging people rewrites rows of person_images, but not these. Without a row the
-- picture is lost and only its embedding is left.
CREATE TABLE enrolment_pictures (
  person_image_id INTEGER PRIMARY KEY REFERENCES person_images (id) ON DELETE CASCADE,
  picture         BLOB    NOT NULL,
  cut             INTEGER NOT NULL DEFAULT 0     -- 1: the face with its surroundings, cut out for the fleet; not the bytes of sha256
) STRICT;

-- The embedding of such a picture in one embedding space: a new space is filled beside the old one
-- before it is used.
CREATE TABLE person_embeddings (
  person_image_id INTEGER NOT NULL REFERENCES person_images (id) ON DELETE CASCADE,
  space           TEXT    NOT NULL,
  vector          BLOB    NOT NULL,              -- little-endian float32
  PRIMARY KEY (person_image_id, space)
) STRICT, WITHOUT ROWID;

-- A face that an operator said is not this person.
CREATE TABLE counter_examples (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  person_id     INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
  space         TEXT    NOT NULL,
  vector        BLOB    NOT NULL,                -- little-endian float32
  crop          BLOB    NOT NULL,                -- aligned JPEG, to be embedded again in another space
  created_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX counter_examples_person ON counter_examples (person_id);

-- Tombstone: keeps a restored backup from bringing an erased person back.
CREATE TABLE erased (
  uid          BLOB    PRIMARY KEY,
  erased_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A person who became another one: keeps a restored backup from splitting them again.
CREATE TABLE merged (
  uid       BLOB PRIMARY KEY,
  into_uid  BLOB NOT NULL,
  person_id INTEGER                              -- under which past results name them; NULL: known from a backup only
) STRICT, WITHOUT ROWID;

-- Fleet: people shared with other boards. docs/design/fleet.md

-- This board's membership: one row, or none. Not in backups: a membership is the board's.
CREATE TABLE fleet (
  id           INTEGER PRIMARY KEY CHECK (id = 1),
  name         TEXT    NOT NULL,
  prefix       TEXT    NOT NULL,                 -- of its topics
  broker       TEXT    NOT NULL,                 -- address at which its boards meet
  secret       BLOB    NOT NULL CHECK (length(secret) = 32),
  former       BLOB    CHECK (length(former) = 32),  -- secret under which the broker still holds records that this board removes
  board        BLOB    NOT NULL CHECK (length(board) = 8),  -- random; names this board in stamps
  -- Hybrid logical clock: the last stamp that was given or seen.
  clock_ms     INTEGER NOT NULL DEFAULT 0,
  clock_count  INTEGER NOT NULL DEFAULT 0,
  changes      INTEGER NOT NULL DEFAULT 0,       -- of records so far; what is in memory is of one such number
  joined_at_ms INTEGER NOT NULL
) STRICT;

-- This board's copy of the fleet's records, from which the tables above follow. Not in backups: an
-- old backup must not undo what the fleet knows.
CREATE TABLE fleet_records (
  id          INTEGER PRIMARY KEY,
  kind        INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 4),  -- person, picture, counter-example, board
  uid         BLOB    NOT NULL CHECK (length(uid) = 16),
  incarnation INTEGER NOT NULL,
  alive       INTEGER NOT NULL,                  -- 0: a tombstone
  person      BLOB,                              -- uid of the person of a picture or counter-example that is alive
  unsent      INTEGER NOT NULL,                  -- 1: the broker does not have it as it is here
  digest      BLOB    NOT NULL,                  -- first 16 bytes of the sha256 of `record`
  record      BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX fleet_records_uid ON fleet_records (kind, uid);
CREATE INDEX fleet_records_unsent ON fleet_records (kind, id) WHERE unsent = 1;
-- What is of a person, and how many pictures there are.
CREATE INDEX fleet_records_person ON fleet_records (person, kind, uid) WHERE person IS NOT NULL;

-- What changed in the tables above and is not compared with the records yet. The key is a person's
-- uid (kind 1), a picture's sha256 (kind 2), or the uid of a person whose counter-examples changed
-- (kind 3); empty for a person without one.
CREATE TABLE fleet_changes (
  kind INTEGER NOT NULL,
  key  ANY     NOT NULL,
  PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
-- Whatever the statement that fires them does about conflicts, these do nothing.
CREATE TRIGGER fleet_person_came AFTER INSERT ON person
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes VALUES (1, coalesce(new.uid, x''))
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_person_changed AFTER UPDATE OF name, uid ON person
  WHEN EXISTS (SELECT 1 FROM fleet) AND (old.name <> new.name OR old.uid IS NOT new.uid) BEGIN
  INSERT INTO fleet_changes VALUES (1, coalesce(old.uid, x'')), (1, coalesce(new.uid, x''))
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_person_left AFTER DELETE ON person
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes VALUES (1, coalesce(old.uid, x''))
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_picture_came AFTER INSERT ON person_images
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes VALUES (2, new.sha256)
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_picture_moved AFTER UPDATE OF person_id ON person_images
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes VALUES (2, new.sha256)
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_picture_left AFTER DELETE ON person_images
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes VALUES (2, old.sha256)
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_bytes_came AFTER INSERT ON enrolment_pictures
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes SELECT 2, sha256 FROM person_images WHERE id = new.person_image_id
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_embedding_came AFTER INSERT ON person_embeddings
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes SELECT 2, sha256 FROM person_images WHERE id = new.person_image_id
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_counter_example_came AFTER INSERT ON counter_examples
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes SELECT 3, uid FROM person WHERE id = new.person_id AND uid IS NOT NULL
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_counter_example_changed AFTER UPDATE ON counter_examples
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes SELECT 3, uid FROM person WHERE id = old.person_id AND uid IS NOT NULL
    ON CONFLICT DO NOTHING;
  INSERT INTO fleet_changes SELECT 3, uid FROM person WHERE id = new.person_id AND uid IS NOT NULL
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_counter_example_left AFTER DELETE ON counter_examples
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes SELECT 3, uid FROM person WHERE id = old.person_id AND uid IS NOT NULL
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_erased AFTER INSERT ON erased
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes VALUES (1, new.uid)
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_merged AFTER INSERT ON merged
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes VALUES (1, new.uid)
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_merge_changed AFTER UPDATE ON merged
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes VALUES (1, new.uid)
    ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER fleet_unmerged AFTER DELETE ON merged
  WHEN EXISTS (SELECT 1 FROM fleet) BEGIN
  INSERT INTO fleet_changes VALUES (1, old.uid)
    ON CONFLICT DO NOTHING;
END;

-- Images

-- The queue and its history in one table: an image keeps its row until retention removes it.
CREATE TABLE images (
  id               INTEGER PRIMARY KEY AUTOINCREMENT,
  state            TEXT    NOT NULL DEFAULT 'pending'
                   CHECK (state IN ('pending', 'processing', 'processed', 'failed')),
  source           TEXT    NOT NULL CHECK (source IN ('http', 'mqtt', 'folder', 'camera', 'frigate')),
  path             TEXT    NOT NULL,             -- as the sender named it
  camera           TEXT,                         -- name of the camera that took it; NULL: it came from none
  event            TEXT,                         -- id of the event that it belongs to, given by the system that sent it
  -- The picture.
  file             TEXT,                         -- spooled bytes, relative to the state folder; NULL: read `path`
  bytes            INTEGER NOT NULL DEFAULT 0,   -- size of `file`; 0 without one
  picture_key      TEXT,                         -- sha256 of the bytes: equal pictures on any board
  idempotency_key  TEXT,                         -- given by the sender: the same key means the same image
  -- The file at `path` when the image was queued, or at the first check; NULL: not checked yet.
  file_size        INTEGER,
  file_mtime_ns    INTEGER,
  file_inode       INTEGER,                      -- 0: inode numbers of its file system are not stable
  -- The way to its end.
  attempts         INTEGER NOT NULL DEFAULT 0,   -- counted at claim, so a crash counts too
  alone            INTEGER NOT NULL DEFAULT 0,   -- 1: it was in flight when an engine died, run it by itself
  due_ms           INTEGER NOT NULL DEFAULT 0,   -- queue clock
  missing_since_ms INTEGER,                      -- queue clock of the first time the file was not there
  came_ms          INTEGER NOT NULL DEFAULT 0,   -- queue clock at accepted_at_ms
  accepted_at_ms   INTEGER NOT NULL,
  dated            INTEGER NOT NULL DEFAULT 0,   -- 1: the clock was synchronised at accepted_at_ms
  finished_at_ms   INTEGER,
  duration_ms      INTEGER,                      -- claim to finish of the last attempt
  -- The end.
  outcome          TEXT    CHECK (outcome IN ('known', 'uncertain', 'unknown', 'no_face')),
  reason           TEXT,                         -- last failure, or why it failed, in words
  remark           TEXT,                         -- problem with the file although it could be read, in words
  engine           TEXT,                         -- pack, precision and device that made the result
  width            INTEGER,                      -- pixels, upright
  height           INTEGER,
  timings          TEXT,                         -- JSON [decode, detect, align, embed, encode], milliseconds; NULL: none reported
  -- The engine that made the result, verified or not. 0: none, 1: primary, 2: fallback. The facts
  -- `verified_1` and `verified_2` hold the newest result that the self-test verified.
  unverified       INTEGER NOT NULL DEFAULT 0,
  supersedes       TEXT,                         -- id of the result that this image's next result replaces
  CHECK ((state = 'processed') = (outcome IS NOT NULL)),
  CHECK (state <> 'failed' OR reason IS NOT NULL)
) STRICT;
-- The queue: the next due image, and those that run alone.
CREATE INDEX images_state_due ON images (state, due_ms);
CREATE INDEX images_alone ON images (state, due_ms) WHERE alone = 1;
-- Images that were put back after they came, on which the end of a sighting may have to wait. Due
-- images that were not are found by images_state_due: theirs is the time they came.
CREATE INDEX images_put_back ON images (came_ms)
  WHERE state = 'pending' AND missing_since_ms IS NULL AND due_ms > came_ms;
-- Images that wait for their file or its root, which are counted separately.
CREATE INDEX images_missing ON images (source, id) WHERE state = 'pending' AND missing_since_ms IS NOT NULL;
-- The same picture sent again: by key, or by an unfinished path from MQTT.
CREATE UNIQUE INDEX images_idempotency_key ON images (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX images_unfinished_path ON images (path) WHERE source = 'mqtt' AND state IN ('pending', 'processing');
-- Lists by outcome or state, newest first, whatever other filters apply.
CREATE INDEX images_outcome ON images (outcome, id) WHERE outcome IN ('known', 'uncertain');
CREATE INDEX images_failed ON images (id) WHERE state = 'failed';
-- The pictures of an event, wherever they are. Those of a camera are found by id.
CREATE INDEX images_event ON images (event, id) WHERE event IS NOT NULL;
-- Retention: sums by source, and the oldest files of finished images.
CREATE INDEX images_files ON images (source, id, bytes) WHERE file IS NOT NULL;
CREATE INDEX images_ended_files ON images (source, id, bytes) WHERE file IS NOT NULL AND state IN ('processed', 'failed');

-- Images whose person may become the sub label of their event.
CREATE INDEX images_of_frigate ON images (id) WHERE source = 'frigate' AND outcome = 'known';

-- An image that was considered for its event's sub label in Frigate.
CREATE TABLE frigate_labels (
  image_id INTEGER PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
  score    REAL                                  -- that was sent; NULL: none, another image was better or it was too late
) STRICT;

-- The small picture of an image, for the page.
CREATE TABLE thumbnails (
  image_id INTEGER PRIMARY KEY REFERENCES images (id) ON DELETE CASCADE,
  jpeg     BLOB NOT NULL
) STRICT;
CREATE INDEX thumbnails_bytes ON thumbnails (image_id, length(jpeg));

-- A face of an image. Candidates are in its row, so that a face touches one tree.
CREATE TABLE faces (
  image_id   INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
  number     INTEGER NOT NULL,                   -- 1 is the best of the image
  outcome    TEXT    NOT NULL CHECK (outcome IN ('known', 'uncertain', 'unknown')),
  person_id  INTEGER REFERENCES person (id) ON DELETE SET NULL,
  distance   REAL,                               -- to the nearest enrolled picture
  margin     REAL,                               -- how much farther the next person is
  candidates TEXT    NOT NULL,                   -- JSON [[person id, distance], …], nearest first
  score      REAL    NOT NULL,                   -- of the detector, 0 to 1
  quality    REAL    NOT NULL,                   -- 0 to 1
  objection  TEXT,                               -- why it is not judged as it might be, a sentence
  bounds     TEXT    NOT NULL,                   -- JSON [left, top, right, bottom], pixels
  landmarks  TEXT    NOT NULL,                   -- JSON [[x, y] × 5], pixels: eyes, nose tip, mouth corners
  space      TEXT    NOT NULL,                   -- embedding space of `embedding`
  embedding  BLOB    NOT NULL,                   -- little-endian float32; empty: erased
  crop       BLOB    NOT NULL,                   -- small aligned JPEG; empty: erased
  PRIMARY KEY (image_id, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX faces_person ON faces (person_id, image_id) WHERE person_id IS NOT NULL;
-- Faces that retention erases, whenever they became unknown. store/retention.rs repeats these exact
-- words.
CREATE INDEX faces_strangers ON faces (image_id) WHERE outcome = 'unknown' AND length(embedding) + length(crop) > 0;

-- Images in each state, maintained by triggers: counting a million rows takes too long, and the limits
-- of unfinished images are checked against these counts in the transaction that accepts more.
CREATE TABLE state_counts (
  state        TEXT    PRIMARY KEY,
  images       INTEGER NOT NULL,
  camera_bytes INTEGER NOT NULL                  -- of the spooled pictures of cameras among them
) STRICT, WITHOUT ROWID;
INSERT INTO state_counts VALUES ('pending', 0, 0), ('processing', 0, 0), ('processed', 0, 0), ('failed', 0, 0);
CREATE TRIGGER images_arrive AFTER INSERT ON images BEGIN
  UPDATE state_counts SET images = images + 1,
         camera_bytes = camera_bytes + iif(new.source IN ('camera', 'frigate') AND new.file IS NOT NULL, new.bytes, 0)
   WHERE state = new.state;
END;
CREATE TRIGGER images_move AFTER UPDATE OF state, file ON images
  WHEN old.state <> new.state OR (old.source IN ('camera', 'frigate') AND old.file IS NOT new.file) BEGIN
  UPDATE state_counts SET images = images - 1,
         camera_bytes = camera_bytes - iif(old.source IN ('camera', 'frigate') AND old.file IS NOT NULL, old.bytes, 0)
   WHERE state = old.state;
  UPDATE state_counts SET images = images + 1,
         camera_bytes = camera_bytes + iif(new.source IN ('camera', 'frigate') AND new.file IS NOT NULL, new.bytes, 0)
   WHERE state = new.state;
END;
CREATE TRIGGER images_leave AFTER DELETE ON images BEGIN
  UPDATE state_counts SET images = images - 1,
         camera_bytes = camera_bytes - iif(old.source IN ('camera', 'frigate') AND old.file IS NOT NULL, old.bytes, 0)
   WHERE state = old.state;
END;

-- Files of the spool that no row names any more and that are still to be deleted; triggers list
-- them. A file that neither a row nor this table names has lost its row: it is queued again.
CREATE TABLE discarded_files (
  file TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
CREATE TRIGGER images_forget_file AFTER UPDATE OF file ON images WHEN old.file IS NOT NULL AND new.file IS NOT old.file BEGIN
  INSERT OR IGNORE INTO discarded_files VALUES (old.file);
END;
CREATE TRIGGER images_leave_file AFTER DELETE ON images WHEN old.file IS NOT NULL BEGIN
  INSERT OR IGNORE INTO discarded_files VALUES (old.file);
END;

-- Images before which the board's clock was set back, by more than the possible disorder among
-- concurrent images (store/find.rs). Between two of them time grows with ids.
CREATE TABLE clock_set_back (id INTEGER PRIMARY KEY) STRICT;
CREATE TRIGGER image_after_clock_set_back AFTER INSERT ON images
  WHEN new.accepted_at_ms < (SELECT accepted_at_ms FROM images WHERE id < new.id ORDER BY id DESC LIMIT 1) - 10000 BEGIN
  DELETE FROM clock_set_back WHERE id < (SELECT min(id) FROM images);
  INSERT OR IGNORE INTO clock_set_back VALUES (new.id);
END;

-- Results

-- The end of an image; what it says is in the rows of the image and its faces. An image that is done
-- again has another result.
CREATE TABLE results (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order in which images ended
  image_id   INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
  result_id  TEXT    NOT NULL,                   -- names the result wherever it goes; unique by how it is made
  supersedes TEXT,                               -- id of the result that it replaces
  refused    TEXT                                -- the broker's reason when it refused the message for good
) STRICT;
CREATE INDEX results_image ON results (image_id);

-- A result whose message no broker has acknowledged, with the exact bytes, so that a repeated message
-- is byte-identical. The row goes with the acknowledgement.
CREATE TABLE outbox (
  id      INTEGER PRIMARY KEY REFERENCES results (id) ON DELETE CASCADE,
  tried   INTEGER NOT NULL DEFAULT 0,            -- 1: it may have left the board
  people  TEXT,                                  -- JSON [person id, …]: the people that the message names
  payload TEXT                                   -- NULL: a person in it was erased; made from the rows again when it is sent
) STRICT;

-- Strangers

-- A group of unknown faces that look alike. It keeps its number, and no number is used twice.
CREATE TABLE strangers (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  space         TEXT    NOT NULL,
  total         BLOB    NOT NULL,                -- sum of the embeddings that shape it, little-endian float32
  weight        INTEGER NOT NULL,                -- how many those are; 0: a face has left it, sum up again
  faces         INTEGER NOT NULL,                -- how many faces belong to it now
  first_seen_ms INTEGER NOT NULL,
  last_seen_ms  INTEGER NOT NULL,
  last_image    INTEGER NOT NULL DEFAULT 0,      -- its newest image, which decides the order of the list
  ignored       INTEGER NOT NULL DEFAULT 0,
  person_id     INTEGER REFERENCES person (id) ON DELETE SET NULL  -- who it was named; its faces are being relabelled
) STRICT;
CREATE INDEX strangers_seen ON strangers (ignored, last_image);
CREATE INDEX strangers_left ON strangers (id) WHERE weight = 0;
CREATE INDEX strangers_named ON strangers (person_id) WHERE person_id IS NOT NULL;

-- A face's place in a group.
CREATE TABLE stranger_faces (
  image_id    INTEGER NOT NULL,
  number      INTEGER NOT NULL,
  stranger_id INTEGER NOT NULL REFERENCES strangers (id) ON DELETE CASCADE,
  PRIMARY KEY (image_id, number),
  FOREIGN KEY (image_id, number) REFERENCES faces (image_id, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX stranger_faces_group ON stranger_faces (stranger_id, image_id, number);
CREATE TRIGGER stranger_face_joined AFTER INSERT ON stranger_faces BEGIN
  UPDATE strangers SET last_image = new.image_id WHERE id = new.stranger_id AND last_image < new.image_id;
END;
CREATE TRIGGER stranger_face_moved AFTER UPDATE OF stranger_id ON stranger_faces BEGIN
  UPDATE strangers SET last_image = new.image_id WHERE id = new.stranger_id AND last_image < new.image_id;
END;
-- A face that is erased, deleted or named leaves its group, and the group's sum is computed again
-- without it.
CREATE TRIGGER stranger_face_left AFTER DELETE ON stranger_faces BEGIN
  UPDATE strangers SET faces = faces - 1, total = x'', weight = 0 WHERE id = old.stranger_id;
  DELETE FROM strangers WHERE id = old.stranger_id AND faces <= 0;
END;
CREATE TRIGGER face_is_no_stranger AFTER UPDATE OF outcome, embedding ON faces
  WHEN new.outcome <> 'unknown' OR length(new.embedding) = 0 BEGIN
  DELETE FROM stranger_faces WHERE image_id = new.image_id AND number = new.number;
END;

-- Sightings

-- One person, or one unknown face, seen by one source without a gap; made of faces of images and of
-- looks of followed cameras.
CREATE TABLE sightings (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  uid         TEXT    NOT NULL UNIQUE,           -- random; names the sighting wherever it goes
  source      TEXT    NOT NULL,                  -- name of the camera, or the way its images came in
  began_ms    INTEGER NOT NULL,                  -- when the first look came in
  last_ms     INTEGER NOT NULL,                  -- when the last one came in
  began_came_ms INTEGER NOT NULL DEFAULT 0,      -- both by the queue clock, by which the gap is measured
  last_came_ms INTEGER NOT NULL,
  until_came_ms INTEGER,                         -- looks that came later do not join; NULL: the gap decides
  ended_ms    INTEGER,                           -- when its end was found; NULL: it is open
  bounds      TEXT    NOT NULL DEFAULT '[]',     -- JSON [left, top, right, bottom] of the last look, pixels
  -- Who it is, by all its looks.
  outcome     TEXT    NOT NULL CHECK (outcome IN ('known', 'uncertain', 'unknown')),
  person_id   INTEGER REFERENCES person (id) ON DELETE SET NULL,
  stranger_id INTEGER,                           -- group of its faces, if it is unknown
  distance    REAL,                              -- of all looks as one, to the nearest person
  margin      REAL,                              -- how much farther the next person is
  looks       INTEGER NOT NULL,
  space       TEXT    NOT NULL,                  -- embedding space of `total`
  total       BLOB    NOT NULL,                  -- sum of the embeddings by weight, little-endian float32; empty: none, erased or ended
  weight      REAL    NOT NULL,                  -- sum of the weights
  -- Its best face; NULL: it is gone.
  image_id    INTEGER,
  number      INTEGER,
  merit       REAL    NOT NULL,                  -- of the best face, to compare others with
  told        TEXT,                              -- JSON of the state that the last message told; NULL: none was made
  named       TEXT    NOT NULL DEFAULT '[]',     -- JSON [person id, …]: those whose event was made while it is open
  changed     INTEGER NOT NULL,                  -- number of its last told change, counted over all sightings
  stale       INTEGER NOT NULL DEFAULT 0         -- how often others changed its faces or people since it was judged
) STRICT;
CREATE INDEX sightings_open ON sightings (source) WHERE ended_ms IS NULL;
CREATE INDEX sightings_changed ON sightings (changed);
CREATE INDEX sightings_stale ON sightings (id) WHERE stale > 0;
-- Ended sightings that a late look may belong to.
CREATE INDEX sightings_late ON sightings (source, last_came_ms) WHERE ended_ms IS NOT NULL;
-- The timeline, newest first, whatever the filter.
CREATE INDEX sightings_source ON sightings (source, id);
CREATE INDEX sightings_outcome ON sightings (outcome, id);
CREATE INDEX sightings_person ON sightings (person_id, id) WHERE person_id IS NOT NULL;
CREATE INDEX sightings_stranger ON sightings (stranger_id, id, began_ms) WHERE stranger_id IS NOT NULL;
CREATE INDEX sightings_day ON sightings (began_ms / 86400000, id);
-- The last sighting of a person.
CREATE INDEX sightings_known ON sightings (person_id, id) WHERE outcome = 'known';

-- The newest sighting of each known person, maintained by triggers: presence reads the newest of these,
-- however many people and sightings there are. The triggers look up max(id) of one person at a
-- time, which is one step into the index: grouped, SQLite would read all sightings of the person.
CREATE TABLE last_seen (
  person_id   INTEGER PRIMARY KEY REFERENCES person (id) ON DELETE CASCADE,
  sighting_id INTEGER NOT NULL
) STRICT;
CREATE INDEX last_seen_order ON last_seen (sighting_id);
CREATE TRIGGER sighting_is_last AFTER INSERT ON sightings WHEN new.outcome = 'known' AND new.person_id IS NOT NULL BEGIN
  INSERT INTO last_seen VALUES (new.person_id, new.id)
    ON CONFLICT (person_id) DO UPDATE SET sighting_id = max(sighting_id, excluded.sighting_id);
END;
CREATE TRIGGER sighting_is_of_another AFTER UPDATE OF outcome, person_id ON sightings
  WHEN old.outcome <> new.outcome OR old.person_id IS NOT new.person_id BEGIN
  DELETE FROM last_seen WHERE person_id IN (old.person_id, new.person_id);
  INSERT INTO last_seen
    SELECT p.id, s.id FROM person p CROSS JOIN sightings s
        ON s.id = (SELECT max(id) FROM sightings INDEXED BY sightings_known WHERE outcome = 'known' AND person_id = p.id)
     WHERE p.id IN (old.person_id, new.person_id);
END;
CREATE TRIGGER sighting_is_gone AFTER DELETE ON sightings
  WHEN EXISTS (SELECT 1 FROM last_seen WHERE person_id = old.person_id AND sighting_id = old.id) BEGIN
  DELETE FROM last_seen WHERE person_id = old.person_id;
  INSERT INTO last_seen
    SELECT p.id, s.id FROM person p CROSS JOIN sightings s
        ON s.id = (SELECT max(id) FROM sightings INDEXED BY sightings_known WHERE outcome = 'known' AND person_id = p.id)
     WHERE p.id = old.person_id;
END;

-- A face's place in a sighting.
CREATE TABLE sighting_faces (
  image_id    INTEGER NOT NULL,
  number      INTEGER NOT NULL,
  sighting_id INTEGER NOT NULL REFERENCES sightings (id) ON DELETE CASCADE,
  PRIMARY KEY (image_id, number),
  FOREIGN KEY (image_id, number) REFERENCES faces (image_id, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX sighting_faces_sighting ON sighting_faces (sighting_id, image_id, number);
-- A sighting is judged again when one of its faces is named, is not that person, or is done again;
-- an ended one only if it says something else. It stays as it is when retention removes the image.
CREATE TRIGGER sighting_face_renamed AFTER UPDATE OF outcome, person_id ON faces
  WHEN old.outcome <> new.outcome OR old.person_id IS NOT new.person_id BEGIN
  UPDATE sightings SET stale = stale + 1
   WHERE id = (SELECT sighting_id FROM sighting_faces WHERE image_id = new.image_id AND number = new.number)
     AND (ended_ms IS NULL OR person_id IS NOT new.person_id);
END;
CREATE TRIGGER sighting_face_left AFTER DELETE ON sighting_faces BEGIN
  UPDATE sightings SET image_id = NULL, number = NULL
   WHERE id = old.sighting_id AND image_id = old.image_id AND number = old.number;
  UPDATE sightings SET stale = stale + 1
   WHERE id = old.sighting_id AND EXISTS (SELECT 1 FROM images WHERE id = old.image_id);
END;
-- An embedding that is erased leaves the sum of its sighting as well, and its crop shows nothing.
CREATE TRIGGER sighting_face_erased AFTER UPDATE OF embedding ON faces
  WHEN length(new.embedding) = 0 AND length(old.embedding) > 0 BEGIN
  UPDATE sightings SET total = x'', weight = 0, stale = stale + (ended_ms IS NULL)
   WHERE id = (SELECT sighting_id FROM sighting_faces WHERE image_id = new.image_id AND number = new.number)
     AND (ended_ms IS NULL OR length(total) > 0);
  UPDATE sightings SET image_id = NULL, number = NULL
   WHERE id = (SELECT sighting_id FROM sighting_faces WHERE image_id = new.image_id AND number = new.number)
     AND image_id = new.image_id AND number = new.number;
END;
-- The group of a sighting's faces is its stranger, also when two groups become one. A sighting keeps
-- the number when the group is gone.
CREATE TRIGGER sighting_of_stranger AFTER INSERT ON stranger_faces BEGIN
  UPDATE sightings SET stranger_id = new.stranger_id, stale = stale + (ended_ms IS NULL)
   WHERE id = (SELECT sighting_id FROM sighting_faces WHERE image_id = new.image_id AND number = new.number)
     AND outcome <> 'known' AND stranger_id IS NULL;
END;
CREATE TRIGGER sighting_of_merged_stranger AFTER UPDATE OF stranger_id ON stranger_faces BEGIN
  UPDATE sightings SET stranger_id = new.stranger_id, stale = stale + (ended_ms IS NULL)
   WHERE stranger_id = old.stranger_id;
END;

-- A message about a sighting that no broker has acknowledged, with the exact bytes, as `outbox`.
CREATE TABLE sighting_outbox (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  sighting_id INTEGER NOT NULL REFERENCES sightings (id) ON DELETE CASCADE,
  at_ms       INTEGER NOT NULL,                  -- when the look that caused it came in, from which its age counts
  tried       INTEGER NOT NULL DEFAULT 0,        -- 1: it may have left the board
  people      TEXT    NOT NULL,                  -- JSON [person id, …]: the people that the message names
  payload     TEXT    NOT NULL,
  person_id   INTEGER,                           -- the person of the event that follows it; NULL: none
  event       TEXT                               -- its exact bytes
) STRICT;
CREATE INDEX sighting_outbox_sighting ON sighting_outbox (sighting_id);

-- What a target of [[notify]] is to be told about a sighting, or was. A finished row stays while it may keep
-- another from being made. It holds no name: the message is made when it is sent.
CREATE TABLE notifications (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  uid         TEXT    NOT NULL UNIQUE,           -- random; the same whenever it is sent
  target      TEXT    NOT NULL,                  -- name of the section
  sighting_id INTEGER NOT NULL REFERENCES sightings (id) ON DELETE CASCADE,
  -- The identity that is told; another one is another notification.
  outcome     TEXT    NOT NULL CHECK (outcome IN ('known', 'uncertain', 'unknown')),
  person_id   INTEGER,                           -- NULL: an unknown face
  made_ms     INTEGER NOT NULL,
  came_ms     INTEGER NOT NULL,                  -- the same by the queue clock, by which it gets too old
  due_ms      INTEGER,                           -- queue clock before which it is not sent; NULL: finished
  attempts    INTEGER NOT NULL DEFAULT 0,        -- failed ones
  ending      TEXT    CHECK (ending IN ('sent', 'refused', 'expired', 'dropped')),
  CHECK ((due_ms IS NULL) = (ending IS NOT NULL))
) STRICT;
CREATE INDEX notifications_due ON notifications (target, due_ms, id) WHERE due_ms IS NOT NULL;
CREATE INDEX notifications_sighting ON notifications (sighting_id);
CREATE INDEX notifications_came ON notifications (came_ms);

-- Folders and messages

-- A watched folder.
CREATE TABLE folders (
  id      INTEGER PRIMARY KEY,
  path    TEXT    NOT NULL UNIQUE,
  mounted INTEGER NOT NULL                       -- 1: it has been a mount, so without one it is away, not empty
) STRICT;

-- A file taken from a watched folder, for as long as it is there.
CREATE TABLE seen (
  folder_id INTEGER NOT NULL REFERENCES folders (id),
  key       BLOB    NOT NULL,                    -- first 16 bytes of the sha256 of the path below the folder
  size      INTEGER NOT NULL,
  mtime_ns  INTEGER NOT NULL,
  image_id  INTEGER,                             -- the image whose end says where the file goes; NULL: it stays
  PRIMARY KEY (folder_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX seen_to_tidy ON seen (image_id) WHERE image_id IS NOT NULL;

-- A message that made no sense: acknowledged, counted, and kept for the operator.
CREATE TABLE rejected_messages (
  id             INTEGER PRIMARY KEY AUTOINCREMENT,
  received_at_ms INTEGER NOT NULL,
  topic          TEXT    NOT NULL,
  reason         TEXT    NOT NULL,               -- a sentence
  content_type   TEXT,
  bytes          INTEGER NOT NULL DEFAULT 0,     -- its size
  payload        BLOB    NOT NULL,               -- its first 1 KiB, for lists
  file           TEXT                            -- the whole, below rejected/; NULL: only the beginning is kept
) STRICT;

-- The board

-- One minute of the board, for the charts; kept for a week.
CREATE TABLE history (
  minute       INTEGER PRIMARY KEY,              -- wall clock, minutes since 1970
  pending      INTEGER NOT NULL,                 -- at its end
  accepted     INTEGER NOT NULL,                 -- in it
  processed    INTEGER NOT NULL,
  failed       INTEGER NOT NULL,
  stages       TEXT    NOT NULL,                 -- JSON [decode, detect, align, embed, encode], mean milliseconds a picture
  celsius      REAL                              -- hottest sensor of the board; NULL: it has none
) STRICT;

-- A change of the circuit breaker.
CREATE TABLE breaker_history (
  id     INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ms  INTEGER NOT NULL,
  state  TEXT    NOT NULL,
  reason TEXT                                    -- a sentence
) STRICT;

-- Facts about the database as a whole, by key: queue_clock_ms, verified_1, …
CREATE TABLE facts (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

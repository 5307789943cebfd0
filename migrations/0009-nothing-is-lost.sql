-- No accepted image is lost.

-- Clocks: images before which the board's clock was set back, by more than the possible disorder
-- among concurrent images (store/find.rs). Between two of them time grows with ids.
CREATE TABLE clock_set_back (id INTEGER PRIMARY KEY) STRICT;
INSERT INTO clock_set_back
  SELECT id FROM (SELECT id, accepted_at_ms, lag(accepted_at_ms) OVER (ORDER BY id) AS before FROM images)
   WHERE accepted_at_ms < before - 10000;
CREATE TRIGGER image_after_clock_set_back AFTER INSERT ON images
  WHEN new.accepted_at_ms < (SELECT accepted_at_ms FROM images WHERE id < new.id ORDER BY id DESC LIMIT 1) - 10000 BEGIN
  DELETE FROM clock_set_back WHERE id < (SELECT min(id) FROM images);
  INSERT OR IGNORE INTO clock_set_back VALUES (new.id);
END;
-- The order of arrival decides which stranger is listed first, whatever the clock says.
ALTER TABLE strangers ADD COLUMN last_image INTEGER NOT NULL DEFAULT 0;
UPDATE strangers SET last_image = coalesce((SELECT max(image_id) FROM stranger_faces f WHERE f.stranger_id = strangers.id), 0);
DROP INDEX strangers_seen;
CREATE INDEX strangers_seen ON strangers (ignored, last_image);
CREATE TRIGGER stranger_face_joined AFTER INSERT ON stranger_faces BEGIN
  UPDATE strangers SET last_image = new.image_id WHERE id = new.stranger_id AND last_image < new.image_id;
END;
CREATE TRIGGER stranger_face_moved AFTER UPDATE OF stranger_id ON stranger_faces BEGIN
  UPDATE strangers SET last_image = new.image_id WHERE id = new.stranger_id AND last_image < new.image_id;
END;

-- Spool and damaged rows.
-- Every vector (of person_embeddings, counter_examples, faces, strangers) ends with the first four
-- bytes of the sha256 of the bytes before them: SQLite would not notice a bit flipped on the disk.
-- Discarded files of the spool, no longer named by any row and still to be deleted; triggers list
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

-- Backups and enrolment pictures.
-- Original bytes of the picture, to be embedded again by another model pack. In a table of their
-- own, because merging or renaming people rewrites rows of person_images, but not these. Without a
-- row the picture is lost and only its embedding is left.
CREATE TABLE enrolment_pictures (
  person_image_id INTEGER PRIMARY KEY REFERENCES person_images (id) ON DELETE CASCADE,
  picture         BLOB    NOT NULL
) STRICT;
-- This column was always people/<sha256>; the start-up takes those files over and removes the
-- folder.
ALTER TABLE person_images DROP COLUMN file;

-- Rejected messages.
-- They are kept whole, each in a file below rejected/; `payload` is the beginning, for lists.
ALTER TABLE rejected_messages ADD COLUMN content_type TEXT;
ALTER TABLE rejected_messages ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rejected_messages ADD COLUMN file TEXT;       -- NULL: only the beginning is kept
UPDATE rejected_messages SET bytes = length(payload);

-- Files as they were queued.
-- State of the file at `path` when its image was queued, or at the first check; NULL: not checked
-- yet.
ALTER TABLE images ADD COLUMN file_size INTEGER;
ALTER TABLE images ADD COLUMN file_mtime_ns INTEGER;
ALTER TABLE images ADD COLUMN file_inode INTEGER;                -- 0: inode numbers of its file system are not stable
-- Images that wait for their file or its root, which are counted separately.
CREATE INDEX images_missing ON images (source, id) WHERE state = 'pending' AND missing_since_ms IS NOT NULL;

-- Names and the gallery.

-- Derived from the name by `names.rs`; NULL until the program fills it in, whenever it opens the
-- database.
ALTER TABLE person ADD COLUMN folded TEXT;         -- for comparing: one person per folded name
ALTER TABLE person ADD COLUMN base TEXT;           -- for ordering and searching: without accents
ALTER TABLE person ADD COLUMN topic TEXT;          -- last level of the person's topic, unique
CREATE UNIQUE INDEX person_folded ON person (folded);
CREATE UNIQUE INDEX person_topic ON person (topic);
CREATE INDEX person_order ON person (base, folded, id);

-- Remarks on pictures.
ALTER TABLE images ADD COLUMN remark TEXT;       -- problem with the file although it could be read, in words

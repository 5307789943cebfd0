-- Enrolled people. facerecog's join still works:
--   select person.name, person.id from person
--     inner join person_images as pi on person.id = pi.person_id where image_name = 'hannibal_2.jpg';
CREATE TABLE person (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  name          TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 200),
  created_at_ms INTEGER NOT NULL                 -- wall clock, for people; order is by id
) STRICT;

CREATE TABLE person_images (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  person_id     INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
  image_name    TEXT    NOT NULL,                -- file name it was enrolled under
  sha256        TEXT    NOT NULL UNIQUE,         -- of the picture's bytes: one picture enrols one person, once
  file          TEXT    NOT NULL,                -- kept picture, relative to the state folder
  bounds        TEXT    NOT NULL,                -- JSON [left, top, right, bottom] of the enrolled face, pixels
  quality       REAL    NOT NULL,
  created_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX person_images_person ON person_images (person_id);
CREATE INDEX person_images_name ON person_images (image_name);

-- One vector per picture and embedding space: a new space is filled beside the old one before it is
-- used.
CREATE TABLE person_embeddings (
  person_image_id INTEGER NOT NULL REFERENCES person_images (id) ON DELETE CASCADE,
  space           TEXT    NOT NULL,
  vector          BLOB    NOT NULL,              -- little-endian float32
  PRIMARY KEY (person_image_id, space)
) STRICT, WITHOUT ROWID;

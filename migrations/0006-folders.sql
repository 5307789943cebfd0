-- Watched folders, and the files taken from them: each by path, size and time, for as long as it
-- exists.
CREATE TABLE folders (
  id      INTEGER PRIMARY KEY,
  path    TEXT    NOT NULL UNIQUE,
  mounted INTEGER NOT NULL                       -- 1: it has been a mount, so without one it is away, not empty
) STRICT;

CREATE TABLE seen (
  folder_id INTEGER NOT NULL REFERENCES folders (id),
  key       BLOB    NOT NULL,                    -- first 16 bytes of the sha256 of the path below the folder
  size      INTEGER NOT NULL,
  mtime_ns  INTEGER NOT NULL,
  image_id  INTEGER,                             -- the image whose end says where the file goes; NULL: it stays
  PRIMARY KEY (folder_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX seen_to_tidy ON seen (image_id) WHERE image_id IS NOT NULL;

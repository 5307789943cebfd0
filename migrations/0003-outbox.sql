-- Results waiting to be published. A row holds the exact bytes, so that a repeated message is
-- byte-identical.
-- 'unwanted': MQTT was switched off when the result was made.
CREATE TABLE outbox (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  result_id     TEXT    NOT NULL UNIQUE,
  image_id      INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
  payload       TEXT    NOT NULL,
  created_at_ms INTEGER NOT NULL,
  tries         INTEGER NOT NULL DEFAULT 0,
  state         TEXT    NOT NULL DEFAULT 'unsent' CHECK (state IN ('unsent', 'sent', 'refused', 'unwanted')),
  note          TEXT                             -- the broker's reason when it refused
) STRICT;
CREATE INDEX outbox_unsent ON outbox (id) WHERE state = 'unsent';
CREATE INDEX outbox_image ON outbox (image_id);

-- Messages that made no sense: acknowledged, counted, and kept for the operator.
CREATE TABLE rejected_messages (
  id             INTEGER PRIMARY KEY AUTOINCREMENT,
  received_at_ms INTEGER NOT NULL,
  topic          TEXT    NOT NULL,
  reason         TEXT    NOT NULL,
  payload        BLOB    NOT NULL                 -- its first 1 KiB
) STRICT;

-- Facts about this database: queue_clock_ms, …
CREATE TABLE facts (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

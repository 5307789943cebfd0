-- What retention has to know without reading every row: how large a kept file is, and whether a date can be believed.
ALTER TABLE images ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;  -- size of `file`; 0 where it came before this
ALTER TABLE images ADD COLUMN dated INTEGER NOT NULL DEFAULT 0;  -- 1: the clock was synchronised at accepted_at_ms
-- Sums by source, and the oldest files of what has ended, from the index alone. The first replaces images_spooled.
DROP INDEX images_spooled;
CREATE INDEX images_files ON images (source, id, bytes) WHERE file IS NOT NULL;
CREATE INDEX images_ended_files ON images (source, id, bytes) WHERE file IS NOT NULL AND state IN ('processed', 'failed');
CREATE INDEX thumbnails_bytes ON thumbnails (image_id, length(jpeg));

-- Facts that retention needs without reading every row: the size of a kept file, and whether a date
-- is trustworthy.
ALTER TABLE images ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;  -- size of `file`; 0 for older rows
ALTER TABLE images ADD COLUMN dated INTEGER NOT NULL DEFAULT 0;  -- 1: the clock was synchronised at accepted_at_ms
-- Covering indexes for sums by source and for the oldest files of finished images. The first
-- replaces images_spooled.
DROP INDEX images_spooled;
CREATE INDEX images_files ON images (source, id, bytes) WHERE file IS NOT NULL;
CREATE INDEX images_ended_files ON images (source, id, bytes) WHERE file IS NOT NULL AND state IN ('processed', 'failed');
CREATE INDEX thumbnails_bytes ON thumbnails (image_id, length(jpeg));

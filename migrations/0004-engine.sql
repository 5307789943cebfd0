-- The engine runs in a process of its own: results not yet vouched for by its self-test, and
-- replacements.
-- 0: vouched for. 1: made by the primary engine, 2: by the fallback engine, since its last passed
-- self-test.
ALTER TABLE images ADD COLUMN unverified INTEGER NOT NULL DEFAULT 0;
-- Id of the result that this image's next result replaces, because its engine failed the self-test.
ALTER TABLE images ADD COLUMN supersedes TEXT;
CREATE INDEX images_unverified ON images (unverified) WHERE unverified > 0;

-- The engine in a process of its own: which results its self-test has not vouched for yet, and what replaced what.
-- 0: vouched for. 1: made by the primary engine, 2: by the fallback, since its last passed self-test.
ALTER TABLE images ADD COLUMN unverified INTEGER NOT NULL DEFAULT 0;
-- Result id of the result that this image's next result replaces, because the engine that made it lied.
ALTER TABLE images ADD COLUMN supersedes TEXT;
CREATE INDEX images_unverified ON images (unverified) WHERE unverified > 0;

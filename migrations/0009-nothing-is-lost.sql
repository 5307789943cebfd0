-- Nothing behind a yes is lost.

-- Spool and damaged rows.

-- Backups and enrolment pictures.

-- Rejected messages.

-- Files as they were queued.

-- Names and the gallery.

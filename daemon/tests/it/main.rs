//! Tests of the built kithd as its users meet it: real broker, real database, real photographs. One
//! binary.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod access; // what brokers refuse, and boards that change their names
mod accuracy; // the right person on every labelled photograph, when they are at hand
mod api; // the HTTP API, and that it is what its documentation says
mod auth; // who may do what on the LAN, and how many and how slow they may be
mod backup; // made, refused, restored; and what comes back of a damaged database
mod bad_input; // what cannot be read ends in words and disturbs nothing
mod bench; // kithd bench board, for its results
mod broker; // a real mosquitto
mod camera; // every so often and on motion, bursts, cameras that stall, glitch and vanish
mod camera_follow; // few pictures of each face that a followed camera sees
mod camera_http; // lighttpd with Digest, nginx with TLS, a server with quirks
mod camera_programs; // rpicam-vid, GStreamer and programs of the operator, the worst ones too
mod camera_stream; // RTSP by ffmpeg: servers that end, stall and refuse
mod command_line; // enroll, identify, status, check-config
mod commands; // by MQTT, and their answers
mod crash; // SIGTERM and kill -9 at any time
mod damage; // spoilt rows cost themselves only, and bits that turn in the database
mod disk; // a file system that is really full, and one that is nearly
mod docs; // the front page and docs/: short, linked, their commands run
mod doctor; // finds what is wrong, and says what to do
mod edge; // listeners, proxies, frames, names, readers that go away, a generated client
mod events; // about people, and Home Assistant
mod faults; // what the engine can do to the daemon
mod flips; // a bit turned anywhere in the database or its journal
mod flood; // a long stream of messages while everything is killed
mod folder; // watched folders: taken once, put away, dead mounts
mod forget; // erased means erased; renamed and merged
mod frigate; // events of an NVR in, their names out; versions, logins, outages
mod gallery; // names and faces held against what it knows
mod group_commit; // syncs counted and slowed from outside
mod handing_broker; // hands a dead member's messages on, for shared
mod hostile; // brokers and senders that mean harm
mod hostile_broker; // sends whatever bytes it is told, for hostile
mod lying_engine; // an engine that lies, for faults, and makes faces up, for sighting_kills
mod metrics; // promtool, and what is kept for the charts
mod mqtt; // paths in, results out
mod notify; // webhooks and ntfy: told once, in order, however ill the target is
mod onvif; // cameras of the network and of other programs, found and listed
mod origin; // the gRPC contract of the system it descends from
mod page; // the status table in a real browser
mod pictures; // the main job over HTTP
mod presence; // who is here, by MQTT and the API
mod queued_files; // by path: the file that stood there, and waiting for those that do not
mod rejected; // messages that are refused: kept whole, sent again; and which are not
mod release; // what ./dev release refuses
mod retention; // what is kept no longer
mod service; // as systemd sees it: readiness, watchdog, unit, credentials, kithd allow
mod shared; // several boards, one topic
mod sighting_kills; // every sighting begins and ends once, whatever is killed
mod sightings; // who came: told from begin to end, over restarts
mod spool; // accepted pictures over kills and lost rows
mod state_folder; // moved away, read-only, full, open to others
mod strangers; // unknown people in groups, and what the gallery says of the threshold
mod support; // starts the daemon and asks it things
mod tidy; // house rules
mod tls; // certificates on both sides
mod uploads; // bodies of requests: whatever they are called, whole or not at all, and never in memory

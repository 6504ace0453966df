//! An SMTP server that receives large volumes of mail, saves it, and lets go of the client as fast as it honestly can.
//!
//! It never sends mail, never bounces, never filters. A 250 is a promise: it is said after COMMIT, never before.
//! To put mails somewhere of your own, implement [`storage::SaveMail`]; its page has an example of twenty lines.
//!
//! # The floor plan
//!
//! ```text
//! 4   main · cli            the command line; list, show, check, schema
//!       │
//! 3   server                bind → log, PID file, keys → drop privileges → store → threads → serve → drain; nothing below imports it
//!       │
//! 2   connection            one client from 220 to close; the only place where protocol meets socket
//!     status ─► http        /metrics, /livez, /readyz, from what connection, net and metrics know
//!     nginx ─► http         tells nginx which clients to bring and where we are, from what connection and net know
//!     http ─► net metrics   one small GET a connection, on inside addresses
//!     config ─► smtp        goguerrilla.conf into typed settings
//!       │                   signals · limits · privileges ─► (nothing)     pid_file ─► handed_over
//!       │
//! 1   net ─► metrics        listener, pool of threads, transport plain or in TLS, PROXY headers, deadlines and who keeps them
//!     storage ─► mail smtp  trait SaveMail, the writer that commits in groups, SQLite, MySQL with Redis
//!       │        metrics
//!       │
//! 0   mail ─► smtp          trace fields, summary, zlib
//!     smtp                  the protocol: octets in, decisions out; knows no socket, clock or thread
//!     handed_over           files that root opens and gives to whom we become
//!     logging ─► metrics    one event, one line
//!     panics ─► metrics     caught around a driver that may panic, else one line
//!     metrics               what is counted, and its page; knows only std
//!     locks                 how everybody locks; knows only std
//! ```
//!
//! # The path of one mail's octets
//!
//! kernel → `net::listener` accepts → `net::pool` gives it a place → `net::transport` reads under `net::deadline` →
//! `connection` fills an `smtp::Input` → `smtp` finds lines and commands, after 354 removes dots and counts →
//! `Step::Save` → `mail` names it, sums it up and deflates it on the connection's own thread → `storage::writer`
//! queues it → the writer's thread takes what has queued up → one COMMIT → each ticket is answered → one reply, one write.
//! Content is copied once, from the read buffer to the message, and then only moved.

// What could panic is refused, or expected with its proof as the reason; a test may.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::get_unwrap,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unchecked_time_subtraction,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod check;
pub mod cli;
pub mod config;
pub mod connection;
pub mod http;
pub mod logging;
pub mod mail;
pub mod metrics;
pub mod net;
pub mod os;
pub mod panics;
pub mod server;
pub mod smtp;
pub mod store;
pub mod sync;

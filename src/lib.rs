//! An SMTP server that receives large volumes of mail, stores it durably, and replies 250 as soon as it is stored.
//!
//! The server never sends mail, never bounces and never filters. A 250 is written after COMMIT, never before.
//! To store mail elsewhere, implement [`store::SaveMail`]; its documentation has an example.
//!
//! # Structure
//!
//! A module imports only modules below it, except that `config` imports `smtp`.
//!
//! ```text
//! main · cli              the command line; list, show, check, schema
//!   │
//! daemon                  the process: bind → open log, PID file, keys → drop privileges → open store → serve; signals, exit
//!   │
//! server                  one server of a process: builder, handle, listeners, store, reload, shutdown
//!   │
//! connection              one client from accept to close; the only code that uses both the protocol and the socket
//! http                    a small HTTP server: metrics, health, nginx's auth_http
//! check                   the diagnostics of `goguerrilla check`; the server logs some of them at startup
//!   │
//! store                   SaveMail, the queue with its writers, SQLite, MySQL with Redis
//! net                     listeners, the thread pool, TLS, PROXY headers, deadlines
//!   │
//! mail                    a mail, its trace fields, its summary (MIME), compression
//!   │
//! smtp                    the protocol without I/O: gets octets, returns the next step
//!
//! config · os · logging · metrics · panics · sync · error_chain    at the bottom; they import only each other; config also
//!                                                            imports smtp
//! ```
//!
//! # The path of one mail
//!
//! `net::listener` accepts → `net::accept_pool` takes a connection slot → `net::transport` reads until a `net::deadline` →
//! `connection` fills an `smtp::InputBuffer` → `smtp` parses lines and commands and, after 354, removes dot-stuffing →
//! `Step::Save` → `mail` assigns ids, reads the summary and compresses on the connection's thread → `store::queue` →
//! a writer takes what is queued → one COMMIT → each waiting connection gets its outcome → one reply, one write.
//! Content is copied once, from the read buffer to the message; after that the content is only moved.

// These lints reject code that can panic. Each exception (`#[expect]`) gives the reason why the code cannot panic. Tests
// may panic.
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
pub mod daemon;
pub mod error_chain;
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

pub use config::{Config, ConfigBuilder, ConfigError};
pub use mail::Recipient;
pub use server::{ReloadError, Server, ServerBuilder, ServerHandle, StartError};

//! An SMTP server that receives large volumes of mail, stores it durably, and replies 250 as soon as it is stored.
//!
//! It never sends mail, never bounces and never filters. The program `goguerrilla` stores mail in SQLite, or in MySQL with
//! Redis. This crate is for programs that store mail in their own way, and for tests that have to catch mail.
//!
//! # A server with your own store
//!
//! Implement [`SaveMail`] and give it to a [`Server`]:
//!
//! ```no_run
//! use goguerrilla::{Config, Mail, SaveError, SaveMail, SavedId, Server};
//!
//! /// Prints the sender and the subject of each mail.
//! struct Printer;
//!
//! impl SaveMail for Printer {
//!     fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
//!         println!("{}: {}", mail.reverse_path(), mail.subject());
//!         Ok(SavedId::from(mail.hash()))
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = Config::builder()
//!         .listen("127.0.0.1:2525".parse()?)
//!         .allowed_hosts(["example.com"])
//!         .build()?;
//!     let server = Server::builder(config).store(|| Ok(Printer)).bind()?;
//!     println!("listening on {:?}", server.local_addrs());
//!     server.run()?;
//!     Ok(())
//! }
//! ```
//!
//! Send it a mail: `swaks --server 127.0.0.1:2525 --to you@example.com`.
//!
//! The reply 250 makes the client delete its copy. So [`SaveMail::save_mail`] returns `Ok` only when the mail is durable, for
//! example after fsync(2) or COMMIT. After an error the client gets 4xx and sends the mail again later. The documentation of
//! [`SaveMail`] has a store of files; a store that saves many mails at once, such as a database, also implements
//! [`SaveMail::save_batch`].
//!
//! # Stop, reload, watch
//!
//! A [`ServerHandle`] controls the server from any thread: [`shutdown`](ServerHandle::shutdown) drains the connections,
//! [`reload`](ServerHandle::reload) applies another [`Config`] to new connections, [`metrics`](ServerHandle::metrics) returns
//! counters. The server changes nothing of the process: it installs no signal handler, and its log events go to the
//! [`log`](https://docs.rs/log) crate. Several servers can run in one process; port 0 gives each a free port:
//!
//! ```
//! use std::thread;
//!
//! use goguerrilla::{Config, Server};
//! # use goguerrilla::{Mail, SaveError, SaveMail, SavedId};
//! # struct Printer;
//! # impl SaveMail for Printer {
//! #     fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
//! #         Ok(SavedId::from(mail.hash()))
//! #     }
//! # }
//!
//! let config = Config::builder().listen("127.0.0.1:0".parse()?).build()?;
//! let server = Server::builder(config).store(|| Ok(Printer)).bind()?;
//! let port = server.local_addrs()[0].port();
//! let handle = server.handle();
//! let running = thread::spawn(|| server.run());
//! // Clients can connect to `port` now.
//! assert_ne!(port, 0);
//! handle.shutdown();
//! running.join().expect("no panic")?;
//! assert_eq!(handle.metrics().mails_saved, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Who is a recipient
//!
//! [`ConfigBuilder::allowed_hosts`] lists the domains. [`ServerBuilder::recipients`] sets a function that decides at RCPT
//! whether an address exists: accept, 550 or 451.
//!
//! # Tests of a store
//!
//! [`Mail::builder`] makes a [`Mail`] without an SMTP session, so that a store can be tested alone.
//!
//! # Features
//!
//! `sqlite` and `mysql` (with Redis) are the stores of the program, both on by default. A program with its own store turns them
//! off with `default-features = false` and compiles 122 other crates instead of 208. The stores are selected by the keys of
//! [`Config::from_json`], which are those of the configuration file of the program.
//!
//! # Platforms
//!
//! Linux. The crate contains no unsafe code.

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

mod check;
mod cli;
mod config;
mod connection;
mod daemon;
mod error_chain;
mod feed;
mod http;
#[doc(hidden)]
pub mod internals;
mod logging;
mod mail;
mod metrics;
mod net;
mod os;
mod panics;
mod server;
mod smtp;
mod store;
mod sync;

pub use config::{Config, ConfigBuilder, ConfigError};
pub use mail::{Attachment, Mail, MailBuildError, MailBuilder, MailId, Recipient};
pub use metrics::MetricsSnapshot;
pub use server::{ReloadError, Server, ServerBuilder, ServerHandle, StartError};
pub use smtp::RecipientCheck;
pub use store::{SaveError, SaveErrorCause, SaveMail, SavedId};

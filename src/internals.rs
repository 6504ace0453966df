//! The parts of the server, for its own program, tests, benchmarks and fuzz targets. This is not a public API: anything here
//! may change in any version.
//!
//! # Structure
//!
//! A module imports only modules below it, except that `config` imports `smtp`.
//!
//! ```text
//! main · cli              the command line; list, show, prune, check, schema
//!   │
//! daemon                  the process: bind → open log, PID file, keys → drop privileges → open store → serve; signals, exit
//!   │
//! server                  one server of a process: builder, handle, listeners, store, reload, shutdown
//!   │
//! connection              one client from accept to close; the only code that uses both the protocol and the socket
//! http                    a small HTTP server: status page, metrics, health, /feed, nginx's auth_http
//! check                   the diagnostics of `goguerrilla check`; the server logs some of them at startup
//!   │
//! store                   SaveMail, the queue with its writers, SQLite, MySQL with Redis
//! net                     listeners, the thread pool, TLS, PROXY headers, deadlines
//! feed                    entries about committed rows, for programs that show new mail at once
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

macro_rules! re_export {
    ($($module:ident),*) => {
        $(
            #[allow(missing_docs, reason = "the module itself has documentation")]
            pub mod $module {
                #[allow(unused_imports, reason = "in a build without stores, `check` has no public item")]
                pub use crate::$module::*;
            }
        )*
    };
}

re_export!(
    check,
    cli,
    config,
    connection,
    daemon,
    error_chain,
    feed,
    http,
    logging,
    mail,
    metrics,
    net,
    os,
    panics,
    server,
    smtp,
    store,
    sync
);

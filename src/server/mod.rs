//! One SMTP server: builder, listeners, store, reload, shutdown.
//!
//! Nothing here affects the process as a whole: no signal handler, no log, no limit, no user, no exit. That is in `daemon`, so
//! that a program can run several servers.

mod allowed_hosts;
mod allowed_hosts_watch;
mod builder;
mod error;
mod feed;
mod handle;
pub mod http_endpoints;
pub mod listeners;
mod password_files;
mod recipients;
mod reload;
mod running;
mod settings;
mod shutdown;
mod store_factory;

pub use allowed_hosts::{AllowedHostsError, LoadedAllowedHosts, add_allowed_hosts_of_file};
pub use builder::ServerBuilder;
pub use error::{ReloadError, StartError};
pub use handle::{Server, ServerHandle};
pub use password_files::{
    PasswordFileError, read_password_files, readable_password_file_warnings,
    unreadable_password_file_warnings,
};
pub use settings::{load_tls, log_config_warnings, tls_files};
pub use store_factory::{StoreFactory, store_factory_of_kind, table_name};

//! Everything that talks to a running server: one binary, so that it is built once.

mod dialogs;
mod properties;
mod smoke;
mod support;

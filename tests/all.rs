//! Everything that talks to a running server.

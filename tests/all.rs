//! Everything that talks to a running server: one binary, so that it is built once.

mod arguments;
mod capacity;
mod check;
mod clients;
mod configs;
mod corpus;
mod dialogs;
mod floor_plan;
mod memory;
mod pipelining;
mod promise;
mod properties;
mod reading;
mod recipients;
mod refusals;
mod shutdown;
mod smoke;
mod sqlite_faults;
mod starttls;
mod support;
mod time;
mod writer;

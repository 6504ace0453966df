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
mod mysql_faults;
mod pipelining;
mod privileges;
mod promise;
mod promise_mysql;
mod properties;
mod reading;
mod recipients;
mod redis_faults;
mod refusals;
mod shutdown;
mod smoke;
mod sqlite_faults;
mod storage;
mod support;
mod time;
mod writer;

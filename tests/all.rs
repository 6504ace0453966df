//! Everything that talks to a running server: one binary, so that it is built once.

mod mysql_faults;
mod promise_mysql;
mod redis_faults;
mod smoke;
mod storage;
mod support;

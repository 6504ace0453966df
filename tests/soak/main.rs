//! Tests that run for minutes: `make soak`.

mod fleet;
mod galera;
mod promise;
mod promise_mysql;

testkit::main!(1);

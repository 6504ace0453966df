//! Tests that run for minutes: `make soak`.

mod endurance;
mod fleet;
mod galera;
mod hold;
mod promise;
mod promise_mysql;
mod upgrade;

testkit::main!(1);

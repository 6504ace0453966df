//! Tests that need another server than `make test` starts: `make compat` runs them next to those of `stores`.

mod accounts;
mod group_replication;

testkit::main!(2);

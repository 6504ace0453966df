//! Tests that need another server than `make test` starts: `make compat` runs them next to those of `stores`.

mod accounts;

testkit::main!(2);

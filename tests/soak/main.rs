//! Tests that run for minutes: `make soak`.

mod durability;
mod durability_mysql;
mod endurance;
mod galera;
mod hold;
mod receiver_cluster;
mod upgrade;

testkit::main!(1);

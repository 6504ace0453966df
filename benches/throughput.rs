//! Throughput beside other servers.

fn main() {}

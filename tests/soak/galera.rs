//! Long tests of the same kind as those of `stores/galera.rs`.

use testkit::galera::Galera;
use testkit::galera_faults::{
    assert_failover_and_failback_of_a_hanging_node, assert_failover_and_failback_of_a_killed_node,
    assert_fast_failover_from_a_read_only_node,
    assert_unknown_commit_is_resolved_by_the_other_nodes,
};
use testkit::test;

#[test]
fn soak_of_galera() {
    let mut galera = Galera::start();
    assert_fast_failover_from_a_read_only_node(&galera);
    galera.sql_at(0, "TRUNCATE mail.new_mail");
    assert_failover_and_failback_of_a_killed_node(&mut galera, 6);
    galera.sql_at(0, "TRUNCATE mail.new_mail");
    assert_failover_and_failback_of_a_hanging_node(&galera);
    for _ in 0..3 {
        galera.sql_at(0, "TRUNCATE mail.new_mail");
        assert_unknown_commit_is_resolved_by_the_other_nodes(&mut galera);
        galera.run(0);
    }
}

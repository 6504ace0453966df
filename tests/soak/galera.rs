//! Long tests of the same kind as those of `stores/galera.rs`, with hold, feed, retention and TLS to the nodes.

use testkit::galera::Galera;
use testkit::galera_faults::{
    assert_failover_and_failback_of_a_hanging_node, assert_failover_and_failback_of_a_killed_node,
    assert_fast_failover_from_a_read_only_node,
    assert_unknown_commit_is_resolved_by_the_other_nodes,
};
use testkit::old_rows::Removal;
use testkit::test;

#[test]
fn soak_of_galera() {
    let mut galera = Galera::start_with_soak_settings();
    assert_fast_failover_from_a_read_only_node(&galera);
    galera.sql_at(0, "TRUNCATE mail.new_mail");
    let mut removal = Removal::default();
    removal.begin_round(&galera);
    assert_failover_and_failback_of_a_killed_node(&mut galera, 6);
    removal.assert_only_too_old_rows_are_gone(&galera);
    galera.sql_at(0, "TRUNCATE mail.new_mail");
    assert_failover_and_failback_of_a_hanging_node(&galera);
    for _ in 0..3 {
        galera.sql_at(0, "TRUNCATE mail.new_mail");
        assert_unknown_commit_is_resolved_by_the_other_nodes(&mut galera);
        galera.run(0);
    }
}

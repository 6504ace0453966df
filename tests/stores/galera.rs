//! Three Galera nodes are killed and restarted in turn under load: every acknowledged mail is in the cluster once, and
//! the server fails over to the next node.

use testkit::galera::Galera;
use testkit::galera_faults::{
    assert_failover_and_failback_of_a_killed_node, assert_fast_failover_from_a_read_only_node,
    assert_mail_is_saved_soon_after_a_node_is_lost,
    assert_unknown_commit_is_resolved_by_the_other_nodes, rounds,
};
use testkit::test;

#[test]
fn failing_galera_node_loses_no_mail_and_is_used_again_after_recovery() {
    // One cluster for all parts, because starting one takes 15 seconds.
    let mut galera = Galera::start();
    assert_fast_failover_from_a_read_only_node(&galera);
    galera.sql_at(0, "TRUNCATE mail.new_mail");
    if rounds() > 0 {
        assert_failover_and_failback_of_a_killed_node(&mut galera, rounds());
        galera.sql_at(0, "TRUNCATE mail.new_mail");
    }
    assert_mail_is_saved_soon_after_a_node_is_lost(&mut galera);
    galera.sql_at(0, "TRUNCATE mail.new_mail");
    assert_unknown_commit_is_resolved_by_the_other_nodes(&mut galera);
}

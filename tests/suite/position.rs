//! Position: a replica that starts from a backup at its recorded position ends up equal to the source.
//!
//! Rule: the position is that of the copy, exactly. A commit too many in either shows as a duplicate key, a missing row or a
//! checksum that differs, because the load goes on before, during and after the cut.

use hotmirror_tests::proof::{Plan, replicas_equal_their_source};
use hotmirror_tests::skip::long;

const NOT_DURABLE: &[&str] = &["--innodb-flush-log-at-trx-commit=0", "--sync-binlog=0"];

#[test]
fn replicas_of_a_durable_source_catch_up_and_equal_it() {
    replicas_equal_their_source(&Plan::mariadb(), if long() { 20 } else { 3 });
}

#[test]
fn replicas_of_a_source_that_flushes_once_a_second_catch_up_and_equal_it() {
    let plan = Plan::mariadb().with(NOT_DURABLE);
    replicas_equal_their_source(&plan, if long() { 20 } else { 3 });
}

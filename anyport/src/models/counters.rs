//! L5: a reader of the published counters never sees a mix of two turns, and never goes back.

use std::sync::Arc;

use anyport_driver::model::{explore, loom::thread, weaken_each};

use crate::counters::Versioned;

/// One writer of three turns, the rare numbers changing in the second; two reads.
fn two_turns_and_a_reader() {
    let published: Arc<Versioned<2, 1>> = Arc::default();
    let shard = thread::spawn({
        let published = Arc::clone(&published);
        move || {
            published.publish([1, 10], Some([1]));
            published.publish([2, 20], None);
        }
    });
    let mut last = 0;
    for _ in 0..2 {
        let ([first, second], [rare]) = published.read();
        assert_eq!(second, first * 10, "a mix of two turns");
        assert_eq!(rare, first.min(1), "a mix of two turns");
        assert!(first >= last, "the counters went back");
        last = first;
    }
    shard.join().unwrap();
    assert_eq!(published.read(), ([2, 20], [1]));
}

#[test]
fn l5_counters_are_those_of_one_turn() {
    explore("L5 counters are those of one turn", two_turns_and_a_reader);
}

#[test]
fn l5_needs_every_ordering_of_the_counters() {
    weaken_each("src/counters.rs", &[("L5", two_turns_and_a_reader)]);
}

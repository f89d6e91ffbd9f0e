//! The grace period with real threads and the kernel's own barrier.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use crate::capture_log::grace::{
    FlightTables, barrier, enter_crowd, leave_crowd, register_for_barrier,
};
use crate::capture_log::layout::{AioSlot, FlightSlot};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Tables {
    slots: [FlightSlot; 8],
    aio_slots: [AioSlot; 4],
    crowd: AtomicU32,
}

impl Tables {
    fn view(&self) -> FlightTables<'_> {
        FlightTables {
            slots: &self.slots,
            aio_slots: &self.aio_slots,
            crowd: &self.crowd,
        }
    }
}

/// Threads do what a hooked call does: enter, load the mode, act on it, leave. A call that acts on a mode whose grace
/// period is over writes into memory that the controller has taken back.
fn no_call_acts_on_an_old_mode(membarrier: bool) {
    const ROUNDS: u64 = 300;
    let tables = Tables::default();
    let (mode, over, stop) = (AtomicU64::new(1), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for slot in &tables.slots[..3] {
            let (mode, over, stop) = (&mode, &over, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let entered = slot.enter(membarrier);
                    let seen = mode.load(Ordering::Relaxed);
                    for _ in 0..seen % 50 {
                        std::hint::spin_loop();
                    }
                    assert!(seen > over.load(Ordering::Relaxed), "mode {seen} was over");
                    slot.leave(entered);
                }
            });
        }
        for round in 1..=ROUNDS {
            mode.store(round + 1, Ordering::SeqCst);
            barrier().unwrap();
            let waited = tables.view().wait(false, LONG);
            // Ends the threads before a failure ends the test.
            stop.fetch_or(waited.is_err() || round == ROUNDS, Ordering::Relaxed);
            waited.unwrap();
            over.store(round, Ordering::SeqCst);
        }
    });
}

#[test]
fn no_call_acts_on_an_old_mode_when_the_kernel_places_the_fences() {
    assert!(register_for_barrier());
    no_call_acts_on_an_old_mode(true);
}

#[test]
fn no_call_acts_on_an_old_mode_when_each_call_fences_itself() {
    no_call_acts_on_an_old_mode(false);
}

#[test]
fn a_call_under_way_is_waited_for_and_a_later_one_is_not() {
    let tables = Tables::default();
    let early = tables.slots[2].enter(false);
    let mut flights = tables.view().under_way(true);
    let late = tables.slots[3].enter(false);
    assert_eq!(flights.thread_slots().collect::<Vec<_>>(), [2]);
    assert!(!tables.view().gone(&mut flights));
    tables.slots[2].leave(early);
    assert!(tables.view().gone(&mut flights));
    tables.slots[3].leave(late);
}

#[test]
fn the_next_call_of_the_same_thread_is_not_waited_for() {
    let tables = Tables::default();
    let first = tables.slots[0].enter(false);
    let mut flights = tables.view().under_way(true);
    tables.slots[0].leave(first);
    let second = tables.slots[0].enter(false);
    assert!(tables.view().gone(&mut flights));
    tables.slots[0].leave(second);
}

#[test]
fn a_call_in_a_signal_handler_leaves_the_interrupted_calls_registration_alone() {
    let tables = Tables::default();
    let outer = tables.slots[0].enter(false);
    let mut flights = tables.view().under_way(true);
    let inner = tables.slots[0].enter(false);
    assert!(inner.nested() && !outer.nested());
    tables.slots[0].leave(inner);
    assert!(!tables.view().gone(&mut flights));
    tables.slots[0].leave(outer);
    assert!(tables.view().gone(&mut flights));
}

#[test]
fn a_wait_has_a_bound_and_names_who_is_left() {
    let tables = Tables::default();
    let entered = tables.slots[5].enter(false);
    assert!(tables.aio_slots[1].claim(0x1000));
    let left = tables.view().wait(true, SHORT).unwrap_err();
    assert_eq!(left.thread_slots().collect::<Vec<_>>(), [5]);
    tables.slots[5].leave(entered);
    assert_eq!(tables.view().wait(true, SHORT).unwrap_err().aio_count(), 1);
    tables.view().wait(false, SHORT).unwrap();
    assert!(tables.aio_slots[1].release(0x1000));
    tables.view().wait(true, SHORT).unwrap();
}

#[test]
fn a_call_without_a_slot_is_waited_for() {
    let tables = Tables::default();
    enter_crowd(&tables.crowd);
    assert!(tables.view().wait(false, SHORT).is_err());
    leave_crowd(&tables.crowd);
    tables.view().wait(false, SHORT).unwrap();
}

#[test]
fn the_wait_ends_when_the_call_of_another_thread_does() {
    let tables = Tables::default();
    let (entered, is_entered) = mpsc::channel();
    let left = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (tables, left) = (&tables, &left);
        scope.spawn(move || {
            let flight = tables.slots[1].enter(false);
            entered.send(()).unwrap();
            // Long against the wait's first pauses, so that it has to look more than once.
            std::thread::sleep(SHORT);
            left.store(true, Ordering::Relaxed);
            tables.slots[1].leave(flight);
        });
        is_entered.recv().unwrap();
        tables.view().wait(false, LONG).unwrap();
        assert!(left.load(Ordering::Relaxed));
    });
}

#[test]
fn a_slot_holds_one_asynchronous_write_at_a_time() {
    let slot = AioSlot::default();
    assert!(slot.claim(0x7fff_1234_5678));
    assert!(!slot.claim(0x1000));
    assert!(!slot.release(0x1000));
    assert!(slot.release(0x7fff_1234_5678));
    assert!(!slot.release(0x7fff_1234_5678));
    assert!(slot.claim(0x1000));
}

#[test]
fn an_iocb_that_is_used_again_does_not_hold_up_the_wait_for_its_first_use() {
    let tables = Tables::default();
    assert!(tables.aio_slots[0].claim(0x1000));
    let mut flights = tables.view().under_way(true);
    assert!(tables.aio_slots[0].release(0x1000));
    assert!(tables.aio_slots[0].claim(0x1000));
    assert!(tables.view().gone(&mut flights));
}

#[test]
fn the_search_for_a_slot_starts_inside_the_table() {
    for iocb in (0..10_000u64).map(|index| 0x7f00_0000_0000 + index * 64) {
        assert!(AioSlot::start(iocb, 16_384) < 16_384);
        assert!(AioSlot::start(iocb, 3) < 3);
    }
}

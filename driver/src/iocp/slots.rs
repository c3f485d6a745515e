//! Operation slots: where the kernel finds an operation's OVERLAPPED, and what it may touch until its packet.
//!
//! A slot lives in a page that never moves and is never freed while the driver lives. From [`Slots::take`] until the
//! packet comes back, or the call says that there will be none, the slot belongs to the kernel, and so does
//! everything in its [`Operation`]: the batch that a send reads, the socket that an accept fills. What the kernel
//! may touch can therefore not be freed, and a slot cannot be used twice at a time.

use std::cell::UnsafeCell;

use anyport_core::{SendBatch, SlabKey};
use socket2::Socket;
use windows_sys::Win32::System::IO::{OVERLAPPED, OVERLAPPED_ENTRY};

use super::{accept::Addresses, winsock};
use crate::types::Token;

/// Slots made at once.
const PAGE: usize = 64;

/// What the old engines called OverlappedEx.
#[repr(C)]
struct Slot {
    /// The kernel's while the operation is in flight.
    overlapped: UnsafeCell<OVERLAPPED>,
    /// Its own place: never written again.
    index: u32,
}

// A packet brings the address of the OVERLAPPED: that must be the address of the slot.
const _: () = assert!(std::mem::offset_of!(Slot, overlapped) == 0);
const _: () = assert!(size_of::<OVERLAPPED>() == 32 || cfg!(target_pointer_width = "32"));

/// What is in flight, with what the kernel may touch.
pub(super) enum Operation {
    /// A zero-byte receive: it waits for data and holds no buffer (PRE_RECV of the old engines).
    PreReceive(SlabKey),
    /// A gathered send.
    Send(SlabKey, Box<SendBatch>),
    /// An accept: the socket that becomes the connection, and room for both addresses.
    Accept(SlabKey, Socket, Box<Addresses>),
    /// A connect on a socket that nobody has a key of yet.
    Connect(Token, Socket),
}

/// A packet, taken apart.
pub(super) struct Ended {
    pub(super) operation: Operation,
    /// NTSTATUS.
    pub(super) status: i32,
    /// Bytes that were moved.
    pub(super) bytes: u32,
}

/// The slots of one driver.
pub(super) struct Slots {
    pages: Vec<Box<[Slot]>>,
    /// What each slot's operation holds; `None` if it is free.
    operations: Vec<Option<Operation>>,
    free: Vec<u32>,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { pages: Vec::new(), operations: Vec::new(), free: Vec::new() }
    }

    /// Operations that the kernel has.
    pub(super) fn in_flight(&self) -> usize {
        self.operations.len() - self.free.len()
    }

    /// Slots that there are.
    #[cfg(test)]
    pub(super) fn made(&self) -> usize {
        self.operations.len()
    }

    /// Puts an operation in a slot, with its OVERLAPPED zeroed. The caller hands it to the kernel, or takes the
    /// operation back with [`abandon`](Self::abandon).
    pub(super) fn take(&mut self, operation: Operation) -> (u32, *mut OVERLAPPED) {
        if self.free.is_empty() {
            self.add_page();
        }
        let slot = self.free.pop().expect("a page was added if there was none");
        self.operations[slot as usize] = Some(operation);
        let overlapped = self.overlapped(slot);
        // SAFETY: the slot was free: the kernel does not have it, and pages are never freed before.
        unsafe { overlapped.write(OVERLAPPED::default()) };
        (slot, overlapped)
    }

    /// Where the slot's OVERLAPPED is: for CancelIoEx.
    pub(super) fn overlapped(&self, slot: u32) -> *mut OVERLAPPED {
        self.pages[slot as usize / PAGE][slot as usize % PAGE].overlapped.get()
    }

    /// What the operation in this slot holds. The kernel may be using what boxes of it point at: look, or set up
    /// a call, but do not change that.
    pub(super) fn operation(&mut self, slot: u32) -> &mut Operation {
        self.operations[slot as usize].as_mut().expect("a slot is looked at while it is in use")
    }

    /// Takes an operation back that the kernel does not have: the call failed, or has done it all at once and
    /// there will be no packet.
    pub(super) fn abandon(&mut self, slot: u32) -> Operation {
        self.release(slot)
    }

    /// Takes the operation of a packet back. Every packet with our OVERLAPPED is the last of its operation,
    /// whatever its status says.
    pub(super) fn end(&mut self, packet: &OVERLAPPED_ENTRY) -> Ended {
        let at: *const Slot = packet.lpOverlapped.cast();
        // SAFETY: the port is private to this driver: a packet on it that carries an OVERLAPPED is of an operation
        // of ours, so this is the address of a slot, whose index nobody writes.
        let slot = unsafe { (*at).index };
        let overlapped = self.overlapped(slot);
        assert!(std::ptr::eq(overlapped, packet.lpOverlapped), "a packet of another driver's operation");
        // SAFETY: the packet ends the operation: the kernel has let go of the slot.
        let status = unsafe { (*overlapped).Internal };
        let operation = self.release(slot);
        Ended { operation, status: status as i32, bytes: packet.dwNumberOfBytesTransferred }
    }

    fn release(&mut self, slot: u32) -> Operation {
        let operation = self.operations[slot as usize].take().expect("a slot is released once");
        self.free.push(slot);
        operation
    }

    fn add_page(&mut self) {
        let first = self.operations.len() as u32;
        let slots = first..first + PAGE as u32;
        let page = slots.clone().map(|index| Slot { overlapped: UnsafeCell::default(), index });
        self.pages.push(page.collect());
        self.operations.extend(slots.clone().map(|_| None));
        // The lowest first: few operations stay in few cache lines.
        self.free.extend(slots.rev());
    }

    /// Asks for the end of every connect.
    pub(super) fn cancel_connects(&self) {
        for operation in self.operations.iter().flatten() {
            if let Operation::Connect(_, socket) = operation {
                winsock::cancel(socket, std::ptr::null());
            }
        }
    }

    /// Gives up for good what the kernel does not let go of.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::replace(self, Self::new()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(n: u32) -> Operation {
        Operation::PreReceive(SlabKey { index: n, generation: 1 })
    }

    fn packet(overlapped: *mut OVERLAPPED, bytes: u32) -> OVERLAPPED_ENTRY {
        OVERLAPPED_ENTRY { lpOverlapped: overlapped, dwNumberOfBytesTransferred: bytes, ..Default::default() }
    }

    #[test]
    fn a_packet_finds_its_operation_again_in_any_order() {
        let mut slots = Slots::new();
        let taken: Vec<_> = (0..200).map(|n| slots.take(operation(n))).collect();
        assert_eq!(slots.in_flight(), 200);
        for (n, &(_, overlapped)) in taken.iter().enumerate().rev() {
            let ended = slots.end(&packet(overlapped, n as u32));
            assert_eq!(ended.bytes, n as u32);
            let Operation::PreReceive(key) = ended.operation else { panic!("another operation") };
            assert_eq!(key.index as usize, n);
        }
        assert_eq!(slots.in_flight(), 0);
    }

    #[test]
    fn slots_are_used_again_and_do_not_move() {
        let mut slots = Slots::new();
        let (first, at) = slots.take(operation(1));
        for n in 0..1_000 {
            slots.take(operation(n));
        }
        assert_eq!(slots.overlapped(first), at);
        slots.abandon(first);
        assert_eq!(slots.take(operation(2)), (first, at));
        assert_eq!(slots.pages.len(), 1_001_usize.div_ceil(PAGE));
    }

    #[test]
    #[should_panic(expected = "released once")]
    fn a_second_packet_of_an_operation_would_be_a_bug() {
        let mut slots = Slots::new();
        let (_, overlapped) = slots.take(operation(1));
        slots.end(&packet(overlapped, 0));
        slots.end(&packet(overlapped, 0));
    }
}

//! The allocator finds what it is there to find. What must end a process happens in a child: this program again, with
//! one test, and a variable that says so.

#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "uses memory that is not there any more, on purpose")]

use std::{
    hint::black_box,
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream, unix::process::ExitStatusExt},
    process::{Command, Output},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyport_guard::{Guarding, counts};

#[global_allocator]
static GUARD: Guarding = Guarding;

/// The variable that makes this program a child.
const CHILD: &str = "ANYPORT_GUARD_CHILD";

/// Runs the test `name` in a child.
fn child(name: &str) -> Output {
    let program = std::env::current_exe().expect("the test knows its program");
    let mut command = Command::new(program);
    command.args(["--exact", "--nocapture", name]).env(CHILD, name);
    command.output().expect("the child runs")
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

#[test]
fn an_allocation_ends_where_nobody_may_go() {
    for size in [1, 7, 1 << 10, 4 << 10, 5_000, 64 << 10] {
        let bytes = vec![7_u8; size];
        assert_eq!(bytes.as_ptr_range().end.addr() % 4096, 0, "{size} bytes");
        assert!(bytes.iter().all(|&byte| byte == 7));
    }
    let words = black_box(Box::new([1_u64; 9]));
    assert_eq!(words.as_ptr_range().end.addr() % 4096, 0);
}

#[test]
fn memory_is_zeroed_and_kept_when_it_grows() {
    let mut bytes = vec![0_u8; 10_000];
    assert!(bytes.iter().all(|&byte| byte == 0));
    bytes.fill(3);
    bytes.extend_from_slice(&[4; 10_000]);
    assert_eq!((bytes[9_999], bytes[10_000], bytes.len()), (3, 4, 20_000));
}

#[test]
fn addresses_are_not_given_out_again() {
    let address = || std::ptr::from_ref(&*black_box(Box::new(5_u64))).addr();
    let mut seen: Vec<_> = (0..1_000).map(|_| address()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 1_000);
    let counts = counts();
    assert!(counts.guarded >= 1_000 && counts.unguarded == 0, "{counts:?}");
}

/// The kernel's answer to a call on freed memory, and what the call changed: nothing.
#[test]
fn the_kernel_cannot_use_freed_memory() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut bytes = vec![0_u8; 16];
    let freed = bytes.as_mut_ptr();
    drop(bytes);
    ours.write_all(b"stays").unwrap();
    // SAFETY: the kernel checks the address itself; that it refuses is what is shown.
    let read = unsafe { libc::recv(theirs.as_raw_fd(), freed.cast(), 16, 0) };
    assert_eq!((read, errno()), (-1, libc::EFAULT));
    // SAFETY: as above.
    let written = unsafe { libc::send(theirs.as_raw_fd(), freed.cast(), 16, 0) };
    assert_eq!((written, errno()), (-1, libc::EFAULT));
    let mut bytes = [0; 5];
    (&theirs).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"stays");
    drop(theirs);
    assert_eq!(ours.read(&mut bytes).unwrap(), 0, "something was sent");
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

#[test]
fn a_read_after_free_ends_the_process() {
    if is_child() {
        let at = Box::into_raw(Box::new(5_u64));
        // SAFETY: it came from a box.
        drop(unsafe { Box::from_raw(at) });
        // SAFETY: none: this is the mistake that must be found.
        println!("read {}", unsafe { at.read_volatile() });
        return;
    }
    let output = child("a_read_after_free_ends_the_process");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
}

#[test]
fn a_write_beyond_the_end_ends_the_process() {
    if is_child() {
        let mut bytes = vec![0_u8; 100];
        // SAFETY: none: this is the mistake that must be found.
        unsafe { bytes.as_mut_ptr().wrapping_add(100).write_volatile(1) };
        return;
    }
    let output = child("a_write_beyond_the_end_ends_the_process");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
}

#[test]
fn a_write_before_the_beginning_is_found_when_freed() {
    if is_child() {
        let mut bytes = vec![0_u8; 100];
        // SAFETY: none: this is the mistake that must be found.
        unsafe { bytes.as_mut_ptr().wrapping_sub(1).write_volatile(1) };
        drop(black_box(bytes));
        return;
    }
    let output = child("a_write_before_the_beginning_is_found_when_freed");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("just outside"), "{output:?}");
}

#[test]
fn freeing_twice_ends_the_process() {
    if is_child() {
        let at = Box::into_raw(Box::new(5_u64));
        for _ in 0..2 {
            // SAFETY: once it is right; twice is the mistake that must be found.
            drop(unsafe { Box::from_raw(at) });
        }
        return;
    }
    let output = child("freeing_twice_ends_the_process");
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
}

#[test]
fn a_hundred_thousand_at_a_time_are_guarded() {
    if is_child() {
        let many: Vec<_> = (0..100_000_u64).map(Box::new).collect();
        assert!(many.iter().enumerate().all(|(at, number)| **number == at as u64));
        assert!(counts().live >= 100_000, "{:?}", counts());
        drop(many);
        assert!(counts().live < 1_000, "{:?}", counts());
        assert_eq!(counts().unguarded, 0);
        return;
    }
    let output = child("a_hundred_thousand_at_a_time_are_guarded");
    assert!(output.status.success(), "{output:?}");
}

/// Every other one freed: more mappings than a process may have.
#[test]
fn what_is_too_much_comes_without_a_guard_and_is_counted() {
    if is_child() {
        let mut many: Vec<_> = (0..150_000_u64).map(|number| Some(Box::new(number))).collect();
        many.iter_mut().step_by(2).for_each(|number| *number = None);
        let more: Vec<_> = (0..1_000_u64).map(Box::new).collect();
        assert!(counts().unguarded > 1_000, "{:?}", counts());
        assert!(more.iter().enumerate().all(|(at, number)| **number == at as u64));
        return;
    }
    let output = child("what_is_too_much_comes_without_a_guard_and_is_counted");
    assert!(output.status.success(), "{output:?}");
}

/// Threads allocate, and free what others allocated.
#[test]
fn threads_share_it() {
    static SUM: AtomicUsize = AtomicUsize::new(0);
    let (give, take) = std::sync::mpsc::channel::<Box<usize>>();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let give = give.clone();
            scope.spawn(move || (0..500).for_each(|at| give.send(Box::new(thread * 500 + at)).unwrap()));
        }
        drop(give);
        scope
            .spawn(move || take.into_iter().for_each(|number| _ = SUM.fetch_add(*number, Ordering::Relaxed)));
    });
    assert_eq!(SUM.load(Ordering::Relaxed), (0..2_000).sum());
}

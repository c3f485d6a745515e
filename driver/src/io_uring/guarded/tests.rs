//! The guard finds what it is there to find: in each case the driver, or a user of it, is made to keep an address too
//! long.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::ExitStatusExt,
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    time::Duration,
};

use anyport_core::SendBatch;

use super::{super::*, POISON};
use crate::{
    Driver, DriverConfig, ListenOptions, Op, Outcome, Received, SocketKey, SocketOptions, Token,
    readiness::Readiness,
};

/// The variable that makes this program a child.
const CHILD: &str = "ANYPORT_GUARD_CHILD";
const BUFFER_BYTES: usize = 4 << 10;
const CONFIG: DriverConfig = DriverConfig {
    sockets_max: 64,
    receive_memory_bytes: 4 * BUFFER_BYTES,
    receive_buffer_bytes: BUFFER_BYTES,
    ..DriverConfig::DEFAULT
};
/// Waits of a millisecond after which what has not come never will.
const WAITS_MAX: usize = 10_000;

fn driver() -> IoUring {
    IoUring::new(CONFIG).expect("this system has io_uring")
}

/// Waits until a completion is what is `wanted`, and takes what that makes of it.
fn wait_for<T>(driver: &mut impl Driver, wanted: impl Fn(Outcome) -> Option<T>) -> T {
    let mut completions = Vec::new();
    for _ in 0..WAITS_MAX {
        driver.wait(Some(Duration::from_millis(1)), &mut completions).expect("the driver works");
        if let Some(found) = completions.drain(..).find_map(|completion| wanted(completion.outcome)) {
            return found;
        }
    }
    panic!("the outcome did not come");
}

/// A connected socket of the driver, and its peer.
fn pair(driver: &mut impl Driver) -> (SocketKey, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = driver.open(&listener.local_addr().unwrap().into(), &SocketOptions::default()).unwrap();
    driver.submit(Token(0), Op::Connect { socket });
    wait_for(driver, |outcome| matches!(outcome, Outcome::Connected(Ok(()))).then_some(()));
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (socket, peer)
}

/// The same socket, not through the driver.
fn double(driver: &IoUring, key: SocketKey) -> TcpStream {
    let Descriptor::Plain(fd) = &driver.sockets.get(key.0).unwrap().descriptor else {
        panic!("connected sockets are plain descriptors")
    };
    let double = TcpStream::from(fd.try_clone().unwrap());
    double.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    double
}

/// Takes the lease of the next data.
fn lease(driver: &mut impl Driver) -> Lease {
    wait_for(driver, |outcome| match outcome {
        Outcome::Received(Received::Data(lease)) => Some(lease),
        _ => None,
    })
}

/// The driver must panic over an operation of this name.
fn is_refused(driver: &mut IoUring, operation: &str) {
    let refused = catch_unwind(AssertUnwindSafe(|| wait_for(driver, |_| None::<()>)));
    let text = *refused.expect_err("it waits in vain").downcast::<String>().expect("a panic has a text");
    assert!(text.starts_with(operation) && text.contains("had been freed"), "{text}");
}

#[test]
fn a_receive_into_a_freed_buffer_is_refused_and_the_bytes_stay() {
    let mut driver = driver();
    let (socket, mut peer) = pair(&mut driver);
    let mut double = double(&driver, socket);
    driver.submit(Token(1), Op::Receive { socket });
    driver.ring.flush().unwrap();
    // The mistake: the kernel still has the old addresses.
    for buffer in 0..4 {
        driver.buffers.memory.replace(buffer);
    }
    peer.write_all(b"stays").unwrap();
    is_refused(&mut driver, "Receive");
    drop(driver);
    let mut bytes = [0; 5];
    double.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"stays");
}

#[test]
fn a_send_of_a_batch_that_was_freed_while_it_waited_is_refused_and_nothing_is_sent() {
    let mut driver = driver();
    let (socket, mut peer) = pair(&mut driver);
    // Until there is no room: so the send has to wait in the kernel.
    let filled = {
        let mut double = double(&driver, socket);
        double.set_nonblocking(true).unwrap();
        let mut filled = fill(&mut double);
        // What the peer's side takes makes room once more, or twice.
        while let more @ 1.. = fill(&mut double) {
            filled += more;
        }
        double.set_nonblocking(false).unwrap();
        filled
    };
    driver.submit(Token(1), Op::Send { socket, batch: SendBatch::of(&[9; 1_000]) });
    driver.ring.flush().unwrap();
    assert!(!driver.ring.has_completions(), "the send did not wait");
    // The mistake.
    drop(driver.sockets.get_mut(socket.0).unwrap().batch.take());
    let mut bytes = vec![0; filled];
    peer.read_exact(&mut bytes).unwrap();
    is_refused(&mut driver, "Send");
    drop(driver);
    assert!(bytes.iter().all(|&byte| byte == 1));
    assert_eq!(peer.read(&mut bytes).unwrap(), 0, "something of the freed batch was sent");
}

/// Writes until there is no room; how much that was.
fn fill(socket: &mut TcpStream) -> usize {
    let mut filled = 0;
    loop {
        match socket.write(&[1; 16 << 10]) {
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return filled,
            Err(error) => panic!("{error}"),
        }
        assert!(filled < 1 << 30, "a socket takes anything");
    }
}

#[test]
fn a_gathered_send_whose_pieces_were_freed_is_refused() {
    let mut driver = driver();
    let (socket, mut peer) = pair(&mut driver);
    let mut pool = anyport_core::ChunkPool::new();
    let mut batch = pool.take();
    for byte in [1, 2] {
        batch.append_shared([byte; 2_000][..].into(), &mut pool);
    }
    assert!(batch.single().is_none(), "it goes as one piece");
    driver.submit(Token(1), Op::Send { socket, batch });
    // The mistake: header and list, not the bytes.
    drop(driver.sockets.get_mut(socket.0).unwrap().gather.take());
    is_refused(&mut driver, "Send");
    drop(driver);
    assert_eq!(peer.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn an_accept_whose_address_was_freed_is_refused() {
    let mut driver = driver();
    let (listener, address) = listen(&mut driver);
    driver.submit(Token(1), Op::Accept { listener });
    driver.ring.flush().unwrap();
    // The mistake. A place for each is kept, because the driver knows of each.
    for index in 0..driver.accepting.index_end() {
        if let Some((_, accepting)) = driver.accepting.at_mut(index) {
            let fresh = Accepting::new(listener);
            drop(std::mem::replace(accepting, Box::new(fresh)));
        }
    }
    let _peer = TcpStream::connect(address).unwrap();
    is_refused(&mut driver, "Accept");
}

fn listen(driver: &mut IoUring) -> (SocketKey, SocketAddr) {
    let any = "127.0.0.1:0".parse().unwrap();
    let (key, address) = driver.listen(&any, &ListenOptions::default()).unwrap();
    (key, address.ip().unwrap())
}

#[test]
fn a_connect_whose_address_was_freed_is_refused() {
    let mut driver = driver();
    let (_listener, address) = listen(&mut driver);
    let socket = driver.open(&address.into(), &SocketOptions::default()).unwrap();
    driver.submit(Token(1), Op::Connect { socket });
    // The mistake.
    drop(driver.sockets.get_mut(socket.0).unwrap().connecting.take());
    is_refused(&mut driver, "Connect");
}

#[test]
fn a_piece_that_came_back_is_poisoned() {
    let mut driver = driver();
    let (socket, mut peer) = pair(&mut driver);
    driver.submit(Token(1), Op::Receive { socket });
    peer.write_all(b"private").unwrap();
    let lease = lease(&mut driver);
    let at = driver.bytes(&lease).as_ptr();
    assert_eq!(driver.bytes(&lease), b"private");
    if !driver.buffers.is_incremental() {
        return;
    }
    driver.recycle(lease);
    // SAFETY: the kernel has not finished with the buffer, so its memory is there; it writes behind the piece.
    let piece = unsafe { std::slice::from_raw_parts(at, 7) };
    assert_eq!(piece, [POISON; 7]);
}

#[test]
fn a_write_to_a_piece_that_came_back_is_found() {
    let mut driver = driver();
    if !driver.buffers.is_incremental() {
        return;
    }
    let (socket, mut peer) = pair(&mut driver);
    driver.submit(Token(1), Op::Receive { socket });
    peer.write_all(b"private").unwrap();
    let first = lease(&mut driver);
    let at = driver.buffers.memory.at(first.buffer as usize, 6);
    driver.recycle(first);
    // SAFETY: the memory is there, see above; that it is not ours is the mistake.
    unsafe { at.write(1) };
    peer.write_all(&[2; BUFFER_BYTES - 7]).unwrap();
    let found = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..BUFFER_BYTES {
            let next = lease(&mut driver);
            driver.recycle(next);
        }
    }));
    let text = *found.expect_err("nobody noticed").downcast::<String>().expect("a panic has a text");
    assert!(text.contains("after it came back") && text.contains("Some(6)"), "{text}");
}

/// Receives a whole buffer, gives it back, and reads it: in a child, which must die of it.
fn dies_of_a_stale_read<D: Driver>(name: &str, make: impl Fn() -> D) {
    if std::env::var_os(CHILD).is_none() {
        let program = std::env::current_exe().expect("the test knows its program");
        let output = Command::new(program).args(["--exact", "--nocapture", name]).env(CHILD, name).output();
        let output = output.expect("the child runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("now the stale read") && !text.contains("and it went well"), "{output:?}");
        assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{output:?}");
        return;
    }
    let mut driver = make();
    let (socket, mut peer) = pair(&mut driver);
    peer.write_all(&[5; BUFFER_BYTES]).unwrap();
    driver.submit(Token(1), Op::Receive { socket });
    let (mut received, mut at) = (0, std::ptr::null());
    while received < BUFFER_BYTES {
        let lease = lease(&mut driver);
        let bytes = driver.bytes(&lease);
        received += bytes.len();
        at = bytes.as_ptr();
        driver.recycle(lease);
    }
    println!("now the stale read");
    // SAFETY: none: this is the mistake that must be found.
    let byte = unsafe { at.read_volatile() };
    println!("and it went well: {byte}");
}

#[test]
fn a_read_of_a_buffer_that_came_back_ends_the_process() {
    dies_of_a_stale_read(
        "io_uring::guarded::tests::a_read_of_a_buffer_that_came_back_ends_the_process",
        driver,
    );
}

#[test]
fn a_read_of_readiness_memory_that_came_back_ends_the_process() {
    dies_of_a_stale_read(
        "io_uring::guarded::tests::a_read_of_readiness_memory_that_came_back_ends_the_process",
        || Readiness::new(CONFIG).expect("this system has epoll"),
    );
}

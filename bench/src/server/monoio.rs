//! monoio: one runtime with its io_uring driver, one task per connection, with owned buffers as its documentation shows.

use std::{io, net};

use io_uring_of_monoio::IoUring;
use monoio::{
    IoUringDriver, RuntimeBuilder,
    io::{AsyncReadRent, AsyncWriteRentExt},
    net::{TcpListener, TcpStream},
};

/// What 10,000 connections ask for at once goes out in one system call.
const ENTRIES: u32 = 16 * 1024;

pub fn run(listener: net::TcpListener, buffer_bytes: usize) -> io::Result<()> {
    // The builder is for the kernel's switches. Without these two, a message takes about a tenth more here.
    let mut ring = IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    let runtime = RuntimeBuilder::<IoUringDriver>::new().with_entries(ENTRIES).uring_builder(ring);
    runtime.build()?.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            monoio::spawn(echo(stream, buffer_bytes));
        }
    })
}

async fn echo(mut stream: TcpStream, buffer_bytes: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Each task has its own, so that its size is a part of what a session costs.
    let mut buffer = Vec::with_capacity(buffer_bytes);
    let mut result;
    loop {
        (result, buffer) = stream.read(buffer).await;
        if result? == 0 {
            return Ok(());
        }
        (result, buffer) = stream.write_all(buffer).await;
        result?;
        buffer.clear();
    }
}

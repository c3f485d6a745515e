//! tokio, sending what arrives on a connection to all others: one runtime on the current thread, one task per
//! connection that reads and writes, and channels between them, as its documentation and its chat example show.

use std::{
    io, net,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{broadcast, mpsc},
};

/// Each task has its own, so that its size is a part of what a session costs.
const BUFFER_SIZE: usize = 4096;
/// Messages that a connection may be behind.
const BEHIND_MAX: usize = 1024;

/// How the tasks reach each other.
#[derive(Clone, Copy)]
pub enum Way {
    /// One channel, to which all listen.
    Broadcast,
    /// A channel for each connection.
    Mpsc,
}

/// What one connection said, for the others: its number, and the bytes, shared.
type Said = (u64, Arc<[u8]>);
/// The channels of all connections, with their numbers.
type Channels = Vec<(u64, mpsc::Sender<Arc<[u8]>>)>;
type Members = Arc<Mutex<Channels>>;

pub fn run(listener: net::TcpListener, way: Way) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (said, _) = broadcast::channel::<Said>(BEHIND_MAX);
        let members = Members::default();
        for number in 0.. {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            match way {
                Way::Broadcast => {
                    let (said, heard) = (said.clone(), said.subscribe());
                    tokio::spawn(by_broadcast(stream, number, said, heard));
                }
                Way::Mpsc => {
                    let (sender, heard) = mpsc::channel(BEHIND_MAX);
                    lock(&members).push((number, sender));
                    tokio::spawn(by_mpsc(stream, number, Arc::clone(&members), heard));
                }
            }
        }
        Ok(())
    })
}

async fn by_broadcast(
    mut stream: TcpStream,
    number: u64,
    said: broadcast::Sender<Said>,
    mut heard: broadcast::Receiver<Said>,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        tokio::select! {
            count = reader.read(&mut buffer) => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                // Fails only if nobody listens.
                let _ = said.send((number, Arc::from(&buffer[..count])));
            }
            // Who is too far behind has missed something, and goes.
            message = heard.recv() => match message {
                Ok((from, bytes)) if from != number => writer.write_all(&bytes).await?,
                Ok(_) => {}
                Err(_) => return Ok(()),
            }
        }
    }
}

async fn by_mpsc(
    mut stream: TcpStream,
    number: u64,
    members: Members,
    mut heard: mpsc::Receiver<Arc<[u8]>>,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut buffer = vec![0; BUFFER_SIZE];
    let result = loop {
        tokio::select! {
            count = reader.read(&mut buffer) => match count {
                Ok(count @ 1..) => {
                    let bytes: Arc<[u8]> = Arc::from(&buffer[..count]);
                    // Who is too far behind is let go: its channel ends.
                    lock(&members).retain(|(to, member)| {
                        *to == number || member.try_send(Arc::clone(&bytes)).is_ok()
                    });
                }
                Ok(0) => break Ok(()),
                Err(error) => break Err(error),
            },
            message = heard.recv() => match message {
                Some(bytes) => if let Err(error) = writer.write_all(&bytes).await {
                    break Err(error);
                },
                None => break Ok(()),
            }
        }
    };
    lock(&members).retain(|(member, _)| *member != number);
    result
}

fn lock(members: &Members) -> MutexGuard<'_, Channels> {
    members.lock().unwrap_or_else(PoisonError::into_inner)
}

//! tokio, sending what arrives on a connection to all others: one runtime on the current thread, one task per
//! connection that reads and writes, and channels between them, as its documentation and its chat example show: messages
//! are cut out of the stream, sent to the channels and written one by one. Beside it the same, tuned: what one read
//! brought goes through the channels as one, and what waits in a channel is written at once.

use std::{
    io, net,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{
        broadcast::{self, error::TryRecvError},
        mpsc,
    },
};

use crate::workload::FANOUT_BYTES;

/// Messages that a connection may be behind.
const BEHIND_MAX: usize = 1024;

/// Of messages that are written at once.
const GATHERED_MAX_BYTES: usize = 64 * 1024;
/// Of messages that are taken out of a channel at once.
const GATHERED_MAX: usize = 256;

/// How the tasks reach each other, and how they write.
#[derive(Clone, Copy)]
pub struct Way {
    pub channels: Channels,
    /// Messages that come together, or wait together, stay together.
    pub gathers: bool,
}

#[derive(Clone, Copy)]
pub enum Channels {
    /// One broadcast channel, to which all listen.
    One,
    /// A bounded channel for each connection.
    Each,
}

/// What one connection said, for the others: its number, and the bytes, shared.
type Said = (u64, Arc<[u8]>);
/// The channels of all connections, with their numbers.
type Senders = Vec<(u64, mpsc::Sender<Arc<[u8]>>)>;
type Members = Arc<Mutex<Senders>>;

pub fn run(listener: net::TcpListener, way: Way, buffer_bytes: usize) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (said, _) = broadcast::channel::<Said>(BEHIND_MAX);
        let members = Members::default();
        for number in 0.. {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let unit = if way.gathers { 1 } else { FANOUT_BYTES as usize };
            let incoming = Incoming { buffer: vec![0; buffer_bytes], filled: 0, unit };
            match way.channels {
                Channels::One => {
                    let (said, heard) = (said.clone(), said.subscribe());
                    tokio::spawn(by_broadcast(stream, incoming, number, said, heard, way.gathers));
                }
                Channels::Each => {
                    let (sender, heard) = mpsc::channel(BEHIND_MAX);
                    lock(&members).push((number, sender));
                    let members = Arc::clone(&members);
                    tokio::spawn(async move {
                        let result = by_mpsc(stream, incoming, number, &members, heard, way.gathers).await;
                        lock(&members).retain(|(member, _)| *member != number);
                        result
                    });
                }
            }
        }
        Ok(())
    })
}

/// What a connection has received and not passed on.
struct Incoming {
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes of a message; 1 where all that is there is passed on as one.
    unit: usize,
}

impl Incoming {
    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// Passes on what is whole after so many bytes were received; the rest waits for its end.
    fn take(&mut self, count: usize, mut pass: impl FnMut(&[u8])) {
        self.filled += count;
        let whole = self.filled - self.filled % self.unit;
        match self.unit {
            1 => pass(&self.buffer[..whole]),
            unit => self.buffer[..whole].chunks(unit).for_each(pass),
        }
        self.buffer.copy_within(whole..self.filled, 0);
        self.filled -= whole;
    }
}

async fn by_broadcast(
    mut stream: TcpStream,
    mut incoming: Incoming,
    number: u64,
    said: broadcast::Sender<Said>,
    mut heard: broadcast::Receiver<Said>,
    gathers: bool,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut gathered = Vec::new();
    loop {
        tokio::select! {
            count = reader.read(incoming.room()) => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                incoming.take(count, |message| {
                    // Fails only if nobody listens.
                    let _ = said.send((number, Arc::from(message)));
                });
            }
            message = heard.recv() => {
                // Who is too far behind has missed something, and goes.
                let Ok((from, bytes)) = message else { return Ok(()) };
                if !gathers {
                    if from != number {
                        writer.write_all(&bytes).await?;
                    }
                    continue;
                }
                let mut next = Ok((from, bytes));
                while let Ok((from, bytes)) = next {
                    if from != number {
                        gathered.extend_from_slice(&bytes);
                    }
                    let full = gathered.len() >= GATHERED_MAX_BYTES;
                    next = if full { Err(TryRecvError::Empty) } else { heard.try_recv() };
                }
                if !matches!(next, Err(TryRecvError::Empty)) {
                    return Ok(());
                }
                writer.write_all(&gathered).await?;
                gathered.clear();
            }
        }
    }
}

async fn by_mpsc(
    mut stream: TcpStream,
    mut incoming: Incoming,
    number: u64,
    members: &Members,
    mut heard: mpsc::Receiver<Arc<[u8]>>,
    gathers: bool,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let taken_max = if gathers { GATHERED_MAX } else { 1 };
    let mut taken = Vec::new();
    let mut gathered = Vec::new();
    loop {
        tokio::select! {
            count = reader.read(incoming.room()) => {
                let count = count?;
                if count == 0 {
                    return Ok(());
                }
                incoming.take(count, |message| {
                    let bytes: Arc<[u8]> = Arc::from(message);
                    // Who is too far behind is let go: its channel ends.
                    lock(members).retain(|(to, member)| {
                        *to == number || member.try_send(Arc::clone(&bytes)).is_ok()
                    });
                });
            }
            count = heard.recv_many(&mut taken, taken_max) => match (count, &taken[..]) {
                (0, _) => return Ok(()),
                (_, [one]) => writer.write_all(one).await?,
                (_, many) => {
                    many.iter().for_each(|bytes| gathered.extend_from_slice(bytes));
                    writer.write_all(&gathered).await?;
                    gathered.clear();
                }
            }
        }
        taken.clear();
    }
}

fn lock(members: &Members) -> MutexGuard<'_, Senders> {
    members.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(unit: usize, counts: &[usize]) -> Vec<usize> {
        let mut incoming = Incoming { buffer: vec![0; 256], filled: 0, unit };
        let mut lengths = Vec::new();
        counts.iter().for_each(|count| incoming.take(*count, |message| lengths.push(message.len())));
        lengths
    }

    #[test]
    fn messages_are_cut_out_of_the_stream_or_stay_together() {
        assert_eq!(taken(64, &[64, 100, 28, 1]), [64, 64, 64]);
        assert_eq!(taken(1, &[64, 100]), [64, 100]);
    }
}

//! A codec of your own: netstrings, `5:hello,`. The server answers each one in capitals.
//!
//! ```text
//! cargo run --release --example own_codec
//! printf '5:hello,2:hi,' | nc 127.0.0.1 7003
//! cargo test -p anyport --example own_codec
//! ```

use std::io::Write;

use anyport::{Codec, Decode, Decoded, Encode, FrameError, prelude::*};

/// The size of the body in decimal, a colon, the body, a comma.
#[derive(Clone, Copy)]
struct Netstrings;

const BODY_SIZE_MAX: usize = 9_999;

/// Bytes around a body of this size.
fn around(body: usize) -> usize {
    let digits = body.checked_ilog10().map_or(1, |zeros| zeros as usize + 1);
    digits + ":,".len()
}

impl Codec for Netstrings {
    type Decoder = Self;
    type Encoder = Self;

    fn split(&self) -> (Self, Self) {
        (*self, *self)
    }

    fn frame_size_max(&self) -> usize {
        around(BODY_SIZE_MAX) + BODY_SIZE_MAX
    }
}

impl Decode for Netstrings {
    fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, FrameError> {
        let mut size = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'0'..=b'9' if at > 0 && size == 0 => {
                    return Err(FrameError::Malformed("its size begins with a zero"));
                }
                b'0'..=b'9' => size = size * 10 + usize::from(byte - b'0'),
                b':' if at > 0 => return body(bytes, at + 1, size),
                _ => return Err(FrameError::Malformed("it begins with its size in digits, then a colon")),
            }
            // With each digit: what is too large is not waited for, and no number of digits overflows.
            if size > BODY_SIZE_MAX {
                return Err(FrameError::TooLarge { size, limit: BODY_SIZE_MAX });
            }
        }
        Ok(Decoded::NeedMore { missing: ":,".len() })
    }
}

/// The frame whose body begins at `start`, if all of it is there.
fn body(bytes: &[u8], start: usize, size: usize) -> Result<Decoded, FrameError> {
    let end = start + size;
    match bytes.get(end) {
        Some(b',') => Ok(Decoded::Frame { kind: 0, body: start..end, consumed: end + 1 }),
        Some(_) => Err(FrameError::Malformed("it ends with a comma")),
        None => Ok(Decoded::NeedMore { missing: end + 1 - bytes.len() }),
    }
}

impl Encode for Netstrings {
    fn encoded_size(&self, frame: &Frame) -> Result<usize, FrameError> {
        match frame.body.len() {
            size @ ..=BODY_SIZE_MAX => Ok(around(size) + size),
            size => Err(FrameError::TooLarge { size, limit: BODY_SIZE_MAX }),
        }
    }

    fn encode(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        write!(out, "{}:", frame.body.len()).expect("a Vec takes every byte");
        out.extend_from_slice(frame.body);
        out.push(b',');
    }
}

/// Answers in capitals.
struct Shout;

impl Handler for Shout {
    type State = ();
    type Codec = Netstrings;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        session.send(&frame.to_ascii_uppercase());
    }
}

fn shout(address: &str) -> anyport::Result<Engine> {
    Engine::new()?.serve(Server::bind(address, Netstrings), |_shard| Shout)
}

fn main() -> anyport::Result<()> {
    shout("0.0.0.0:7003")?.run()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::{Shutdown, TcpStream},
        time::Duration,
    };

    use super::*;

    /// What comes back for these bytes, sent in two pieces, until the server ends the session or has said it all.
    fn answer(pieces: [&[u8]; 2]) -> Vec<u8> {
        let running = shout("127.0.0.1:0").unwrap().start().unwrap();
        let mut peer = TcpStream::connect(running.address(0).unwrap()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        for piece in pieces {
            peer.write_all(piece).unwrap();
        }
        // The server may have ended the session already; what comes back tells.
        let _ = peer.shutdown(Shutdown::Write);
        let mut back = Vec::new();
        if let Err(error) = peer.read_to_end(&mut back) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        running.stop().unwrap();
        back
    }

    #[test]
    fn every_netstring_is_answered_in_capitals() {
        assert_eq!(answer([b"5:hello,0:,2:h", b"i,"]), b"5:HELLO,0:,2:HI,");
        assert_eq!(answer([b"12:twelve bytes", b","]), b"12:TWELVE BYTES,");
    }

    #[test]
    fn what_is_no_netstring_ends_the_session() {
        for wrong in ["x", ":", "05:hello,", "5:hello;", "10000:", "99999999999999999999999999:"] {
            assert!(Netstrings.decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert_eq!(answer([b"5:hello;", b""]), b"");
    }

    #[test]
    fn a_cut_netstring_says_how_much_is_missing() {
        let mut wire = Vec::new();
        Netstrings.encode(&Frame { kind: 0, body: b"hello" }, &mut wire);
        assert_eq!(wire.len(), Netstrings.encoded_size(&Frame { kind: 0, body: b"hello" }).unwrap());
        for cut in 1..wire.len() {
            let Ok(Decoded::NeedMore { missing }) = Netstrings.decode(&wire[..cut]) else {
                panic!("a frame before its end");
            };
            assert!(missing <= wire.len() - cut, "{missing} at {cut}");
        }
    }
}

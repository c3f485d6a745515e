//! Messages with a type: what a body means, beside where it ends.

use std::{array::TryFromSliceError, fmt, str::Utf8Error};

use anyport_core::{Frame, FrameError, Refusal, Sent};

use crate::{handler::Handler, session::Session};

/// What is kept for encoding messages when one was larger. Bytes.
pub(crate) const SCRATCH_KEPT: usize = 64 << 10;

/// What a frame of one kind says. For codecs that carry a kind: [`SizeKind`](crate::SizeKind), a
/// [`LengthPrefix`](crate::LengthPrefix) with a [kind](crate::LengthPrefixBuilder::kind), or your own.
///
/// ```
/// use anyport::{Message, MessageError};
///
/// /// Borrows its name from the receive buffer: nothing is copied.
/// struct Login<'a> {
///     level: u8,
///     name: &'a str,
/// }
///
/// impl Message for Login<'_> {
///     const KIND: u16 = 1;
///     type Of<'a> = Login<'a>;
///
///     fn decode(body: &[u8]) -> Result<Login<'_>, MessageError> {
///         let (&level, name) = body.split_first().ok_or(MessageError("a login has a level"))?;
///         Ok(Login { level, name: str::from_utf8(name)? })
///     }
///
///     fn encode(&self, out: &mut Vec<u8>) {
///         out.push(self.level);
///         out.extend_from_slice(self.name.as_bytes());
///     }
/// }
///
/// let mut body = Vec::new();
/// Login { level: 3, name: "ann" }.encode(&mut body);
/// let login = Login::decode(&body).unwrap();
/// assert_eq!((login.level, login.name), (3, "ann"));
/// assert!(Login::decode(b"\x03\xff").is_err());
/// ```
///
/// One type may go both ways. [`Session::send_message`] sends it, a [`Router`](crate::Router) receives it.
pub trait Message {
    /// The kind of its frames.
    const KIND: u16;

    /// The message, with whatever it borrows from the body: `Login<'a>`, or `Self` if it owns everything.
    type Of<'a>;

    /// Reads a body, all of it.
    ///
    /// # Errors
    /// If the body is not such a message. It is the peer's fault, and what happens then is up to the
    /// [router](crate::Router::undecodable).
    fn decode(body: &[u8]) -> Result<Self::Of<'_>, MessageError>;

    /// Appends the body to `out`, and leaves what is there alone.
    fn encode(&self, out: &mut Vec<u8>);

    /// The message as a frame in a buffer of yours, which is overwritten: for whatever takes a frame.
    fn frame_in<'b>(&self, buffer: &'b mut Vec<u8>) -> Frame<'b> {
        buffer.clear();
        self.encode(buffer);
        Frame { kind: Self::KIND, body: buffer }
    }
}

/// Why a body is no message of its kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageError(
    /// What is wrong with it, or what it should be.
    pub &'static str,
);

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed message: {}", self.0)
    }
}

impl std::error::Error for MessageError {}

/// `body.try_into()?` makes an array of a body.
impl From<TryFromSliceError> for MessageError {
    fn from(_: TryFromSliceError) -> Self {
        Self("it has another size than its kind")
    }
}

/// `str::from_utf8(body)?` makes text of a body.
impl From<Utf8Error> for MessageError {
    fn from(_: Utf8Error) -> Self {
        Self("its text is not UTF-8")
    }
}

impl<H: Handler> Session<'_, H> {
    /// Queues a message. As [`send_kind`](Self::send_kind) with its kind and body; the body is encoded into memory that
    /// the shard keeps for that, so a message costs no allocation.
    pub fn send_message<M: Message>(&mut self, message: &M) -> Sent {
        // Taken out: the session is borrowed as a whole below. An encoder that panics costs only this buffer.
        let mut scratch = std::mem::take(&mut self.local.scratch);
        let sent = self.send_frame(message.frame_in(&mut scratch));
        scratch.clear();
        scratch.shrink_to(SCRATCH_KEPT);
        self.local.scratch = scratch;
        sent
    }
}

/// Says why a codec does not carry a frame.
#[cold]
pub(crate) fn not_carried(error: FrameError) -> Refusal {
    log::debug!("not sent: {error}");
    error.into()
}

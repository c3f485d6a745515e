//! What became of a session, in lines that can be compared.

use std::fmt::Write as _;

use anyport::CloseReason;

use crate::handler::{Event, hash};

/// How the last line of a session begins that waited in vain.
const STUCK: &str = "stuck: ";

/// How a session ended for its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PeerEnd {
    SawEnd,
    SawReset,
    Closed,
    WasReset,
}

/// What happened to a session on both sides.
#[derive(Clone, Default, Debug)]
pub(crate) struct Trace {
    /// What the handler was told.
    pub(crate) events: Vec<Event>,
    /// What the peer received.
    pub(crate) bytes: Vec<u8>,
    pub(crate) end: Option<PeerEnd>,
    /// What was waited for in vain.
    pub(crate) stuck: Option<&'static str>,
}

/// What more than one outcome of is right.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Loose {
    /// The server closed while bytes of the peer were on their way. Whether it had read them is chance; if it had
    /// not, its system sends a reset.
    pub(crate) end: bool,
    /// The peer reset the connection. Wine takes note of a reset that comes while no receive is pending, and the
    /// next receive finds an orderly end (docs/iocp.md). Nothing is loose elsewhere.
    pub(crate) reason: bool,
}

/// The lines of one session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SessionTrace {
    pub(crate) name: String,
    pub(crate) lines: Vec<String>,
}

impl Trace {
    pub(crate) fn told(&self, name: String, loose: Loose) -> SessionTrace {
        let mut lines: Vec<_> = self.events.iter().map(|event| line(*event, loose)).collect();
        lines.push(format!("peer received {} bytes, {:016x}", self.bytes.len(), hash(&self.bytes)));
        lines.push(match self.end {
            Some(PeerEnd::SawEnd | PeerEnd::SawReset) if loose.end => "peer saw an end or a reset".into(),
            Some(PeerEnd::SawEnd) => "peer saw the end".into(),
            Some(PeerEnd::SawReset) => "peer saw a reset".into(),
            Some(PeerEnd::Closed) => "peer closed".into(),
            Some(PeerEnd::WasReset) => "peer reset it".into(),
            None => "peer saw no end".into(),
        });
        lines.extend(self.stuck.map(|what| format!("{STUCK}{what}")));
        SessionTrace { name, lines }
    }
}

fn line(event: Event, loose: Loose) -> String {
    match event {
        // Ids are given out by each engine as it likes.
        Event::Open(_) => "open".into(),
        Event::Frame { kind, len, hash } => format!("frame of kind {kind}, {len} bytes, {hash:016x}"),
        Event::WhilePaused => "paused, and still given:".into(),
        Event::Job(job) => format!("job {job:?}"),
        Event::Close(CloseReason::PeerReset | CloseReason::PeerClosed) if loose.reason && cfg!(windows) => {
            "close: peer reset or peer closed".into()
        }
        // The system's own number of an error is its own.
        Event::Close(CloseReason::ReceiveFailed(fault)) => format!("close: receive failed, {:?}", fault.kind),
        Event::Close(CloseReason::SendFailed(fault)) => format!("close: send failed, {:?}", fault.kind),
        Event::Close(reason) => format!("close: {reason}"),
    }
}

/// Where two traces part: the session, and the first line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Parting {
    pub(crate) session: usize,
    pub(crate) line: usize,
}

/// The first difference, if there is one. A session that is stuck comes first: others only ended with it.
pub(crate) fn parting(left: &[SessionTrace], right: &[SessionTrace]) -> Option<Parting> {
    const NONE: &SessionTrace = &SessionTrace { name: String::new(), lines: Vec::new() };
    let pairs = (0..left.len().max(right.len()))
        .map(|session| (left.get(session).unwrap_or(NONE), right.get(session).unwrap_or(NONE)));
    let is_stuck = |trace: &SessionTrace| trace.lines.last().is_some_and(|line| line.starts_with(STUCK));
    let mut pairs: Vec<_> = pairs.enumerate().collect();
    pairs.sort_by_key(|(_, (left, right))| !is_stuck(left) && !is_stuck(right));
    for (session, (left, right)) in pairs {
        let lines = left.lines.len().max(right.lines.len());
        if let Some(line) = (0..lines).find(|line| left.lines.get(*line) != right.lines.get(*line)) {
            return Some(Parting { session, line });
        }
        if left.name != right.name {
            return Some(Parting { session, line: 0 });
        }
    }
    None
}

/// The two traces of the session that differs, side by side, with the first line that does marked.
pub(crate) fn side_by_side(
    names: [&str; 2],
    left: &[SessionTrace],
    right: &[SessionTrace],
    Parting { session, line }: Parting,
) -> String {
    let of = |traces: &[SessionTrace]| traces.get(session).map_or(Vec::new(), |trace| trace.lines.clone());
    let (left_lines, right_lines) = (of(left), of(right));
    let name = left.get(session).or(right.get(session)).map_or("", |trace| &trace.name);
    let width = left_lines.iter().map(String::len).max().unwrap_or(0).max(names[0].len());
    let mut text = format!("{name}\n     {:width$} | {}\n", names[0], names[1]);
    for at in 0..left_lines.len().max(right_lines.len()) {
        let cell = |lines: &[String]| lines.get(at).cloned().unwrap_or_else(|| "(nothing)".into());
        let mark = if at == line { "--> " } else { "    " };
        let _ = writeln!(text, "{mark} {:width$} | {}", cell(&left_lines), cell(&right_lines));
    }
    text
}

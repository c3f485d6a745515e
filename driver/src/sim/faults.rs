//! What can go wrong on a simulated network, and how often.

use std::{fmt, str::FromStr, time::Duration};

use anyport_core::{Fault, FaultKind};

use super::random::{Drawn, hash};

/// How often a fault fires: a probability for each opportunity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Rate(u32);

impl Rate {
    /// Not once. The default.
    pub const NEVER: Self = Self(0);
    /// At every opportunity.
    pub const ALWAYS: Self = Self(MILLION);

    /// `times` in a million; a million and more is always.
    pub const fn per_million(times: u32) -> Self {
        Self(if times < MILLION { times } else { MILLION })
    }

    /// Times in a million.
    pub const fn times_per_million(self) -> u32 {
        self.0
    }
}

pub(super) const MILLION: u32 = 1_000_000;

/// The table of classes: each with its name in a [`FaultId`], and the rarest and the most frequent rate that
/// [`Faults::drawn`] gives it, in times per million opportunities.
macro_rules! classes {
    ($($(#[$doc:meta])+ $class:ident = $name:literal, $rare:literal..=$frequent:literal;)+) => {
        /// A kind of thing that goes wrong. Its rate is of the opportunities that its description names.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[non_exhaustive]
        pub enum FaultClass {
            $($(#[$doc])+ $class,)+
        }

        const CLASSES: &[(FaultClass, &str, u32, u32)] = &[
            $((FaultClass::$class, $name, $rare, $frequent),)+
        ];

        impl FaultClass {
            /// Every class, in the order of the declaration.
            pub const ALL: [Self; CLASSES.len()] = [$(Self::$class,)+];
        }
    };
}

classes! {
    /// A step of the network, or a completion, comes without any delay. For each of them.
    Instant = "instant", 10_000..=500_000;
    /// A step of the network, or a completion, comes up to [`Faults::late_max`] later. For each of them.
    Late = "late", 50..=50_000;
    /// A connection is reset: both ends see it. For each step of bytes from end to end.
    Reset = "reset", 10..=10_000;
    /// One direction of a connection moves nothing for up to [`Faults::clog_max`], then goes on. For each step of
    /// bytes.
    Clog = "clog", 100..=50_000;
    /// A connection moves nothing ever again; each end fails as timed out after [`Faults::silence_timeout`]. For
    /// each step of bytes.
    Silence = "silence", 5..=5_000;
    /// A socket's buffers hold 1 to 64 bytes, if its options name no size. For each end of a connection.
    TinyBuffer = "tiny-buffer", 10_000..=500_000;
    /// Accepting fails for a moment of up to [`Faults::accept_rest_max`]; the connection waits meanwhile. For each
    /// connection that would be accepted.
    Accept = "accept", 1_000..=300_000;
    /// A connect of a driver fails. For each of them.
    Connect = "connect", 10_000..=500_000;
    /// [`Driver::open`](crate::Driver::open) fails. For each call.
    Open = "open", 5_000..=300_000;
    /// [`Driver::listen`](crate::Driver::listen) fails. For each call.
    Listen = "listen", 5_000..=200_000;
    /// A receive ends with a fault. For each look at what arrived.
    Receive = "receive", 20..=20_000;
    /// A send ends with a fault after part of it was taken, which does arrive. For each step of a send.
    Send = "send", 20..=20_000;
    /// A shutdown fails, and does not happen. For each of them.
    Shutdown = "shutdown", 5_000..=300_000;
    /// A receive finds no buffer for up to [`Faults::drought_max`] although some are free; sockets that look for one
    /// meanwhile queue up behind it. For each buffer that would be given.
    Drought = "drought", 100..=100_000;
    /// A cancel, or what a close cancels, takes effect only after up to [`Faults::late_max`]; meanwhile the
    /// operation goes on, and may win. For each cancel.
    CancelLate = "cancel-late", 10_000..=700_000;
    /// `Closed` comes up to [`Faults::late_max`] after everything was joined. For each close of a connection.
    SlowClose = "slow-close", 10_000..=500_000;
    /// A socket gets a turn with nothing new for it, as from stale readiness. For each turn that it has a reason for.
    SpuriousTurn = "spurious-turn", 1_000..=500_000;
    /// A wait after it ends early, and with nothing if nothing is complete then. For each wait that delivers something.
    SpuriousWake = "spurious-wake", 1_000..=300_000;
    /// A wait delivers 1 to 8 completions, and the rest later. For each wait that has more than one.
    SmallBatch = "small-batch", 10_000..=700_000;
    /// [`Driver::open_file`](crate::Driver::open_file) fails. For each call.
    FileOpen = "file-open", 5_000..=200_000;
    /// An append fails after part of it was taken, which is in the file: mostly because no space is left. For each
    /// step of an append.
    FileFull = "file-full", 500..=50_000;
    /// A sync fails. For each of them.
    FileSync = "file-sync", 5_000..=200_000;
    /// A rotation fails, and does not happen. For each of them.
    FileRotate = "file-rotate", 5_000..=300_000;
    /// An operation on a file begins up to [`Faults::late_max`] late. For each of them.
    FileSlow = "file-slow", 5_000..=200_000;
}

pub(super) const CLASS_COUNT: usize = FaultClass::ALL.len();

impl FaultClass {
    /// True if it concerns files: it fires only where some are opened.
    pub fn is_of_files(self) -> bool {
        matches!(self, Self::FileOpen | Self::FileFull | Self::FileSync | Self::FileRotate | Self::FileSlow)
    }

    /// Its name, as in a [`FaultId`].
    pub fn name(self) -> &'static str {
        CLASSES[self as usize].1
    }
}

impl fmt::Display for FaultClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which faults a [`SimNet`](super::SimNet) injects. The default is none of them.
///
/// ```
/// use anyport_driver::sim::{Behaviour, FaultClass, Faults, Rate};
/// let faults = Faults::default()
///     .with(FaultClass::Reset, Rate::per_million(500))
///     .with(FaultClass::TinyBuffer, Rate::ALWAYS);
/// let behaviour = Behaviour::default().with_faults(faults);
/// assert_eq!(behaviour.faults.rate(FaultClass::Late), Rate::NEVER);
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Faults {
    rates: [Rate; CLASS_COUNT],
    /// Longest additional delay of what is late. Default 10 s.
    pub late_max: Duration,
    /// Longest time for which a direction is clogged. Default 30 s.
    pub clog_max: Duration,
    /// When the ends of a silent connection give up. Default 120 s.
    pub silence_timeout: Duration,
    /// Longest time for which receives find no buffer. Default 1 s.
    pub drought_max: Duration,
    /// Longest time for which accepting rests after a fault. Default 500 ms.
    pub accept_rest_max: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            rates: [Rate::NEVER; CLASS_COUNT],
            late_max: Duration::from_secs(10),
            clog_max: Duration::from_secs(30),
            silence_timeout: Duration::from_mins(2),
            drought_max: Duration::from_secs(1),
            accept_rest_max: Duration::from_millis(500),
        }
    }
}

impl Faults {
    /// A swarm's member: each class is on with probability 1/2, at a rate between rare and frequent, every order of
    /// magnitude as likely as another. So are the longest times, from a thousandth of their defaults.
    pub fn drawn(seed: u64) -> Self {
        let mut faults = Self::default();
        for &(class, _, rare, frequent) in CLASSES {
            let drawn = Drawn(hash(seed, 1 + class as u64));
            if drawn.up_to(1) == 1 {
                let rate = drawn.next().log_uniform(rare.into(), frequent.into());
                faults = faults.with(class, Rate::per_million(rate as u32));
            }
        }
        let times = [
            &mut faults.late_max,
            &mut faults.clog_max,
            &mut faults.silence_timeout,
            &mut faults.drought_max,
            &mut faults.accept_rest_max,
        ];
        for (n, time) in times.into_iter().enumerate() {
            let most = time.as_nanos() as u64;
            let drawn = Drawn(hash(seed, 1_000 + n as u64)).log_uniform(most / 1_000, most);
            *time = Duration::from_nanos(drawn);
        }
        faults
    }

    /// The same with another rate of one class.
    pub fn with(mut self, class: FaultClass, rate: Rate) -> Self {
        self.rates[class as usize] = rate;
        self
    }

    /// The same with other longest times: of what is late, of clogs, of droughts, of rests of accepting.
    pub fn with_times_max(mut self, max: Duration) -> Self {
        (self.late_max, self.clog_max, self.drought_max, self.accept_rest_max) = (max, max, max, max);
        self
    }

    /// How often a class fires.
    #[inline]
    pub fn rate(&self, class: FaultClass) -> Rate {
        self.rates[class as usize]
    }

    /// The classes that fire at all.
    pub fn classes(&self) -> impl Iterator<Item = FaultClass> {
        FaultClass::ALL.into_iter().filter(|class| self.rate(*class) != Rate::NEVER)
    }
}

/// One fault that fired, or might: the same in every run with the same seed, whatever happens elsewhere.
///
/// As text it is `class@label#ordinal`, and can be parsed again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FaultId {
    /// What fired.
    pub class: FaultClass,
    /// On what: the end that opened connection n has label 2n, the other one 2n + 1 (see
    /// [`SimNet::connect_as`](super::SimNet::connect_as)). Listeners, drivers and files have labels from 2^60.
    pub label: u64,
    /// The how-manieth opportunity of its class there, from 0.
    pub ordinal: u32,
}

impl fmt::Display for FaultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.class, self.label, self.ordinal)
    }
}

impl FromStr for FaultId {
    type Err = FaultIdError;

    fn from_str(text: &str) -> Result<Self, FaultIdError> {
        let parts = text.split_once('@').and_then(|(name, rest)| Some((name, rest.split_once('#')?)));
        let Some((name, (label, ordinal))) = parts else { return Err(FaultIdError) };
        let class = FaultClass::ALL.into_iter().find(|class| class.name() == name);
        let (Some(class), Ok(label), Ok(ordinal)) = (class, label.parse(), ordinal.parse()) else {
            return Err(FaultIdError);
        };
        Ok(Self { class, label, ordinal })
    }
}

/// The text names no fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultIdError;

impl fmt::Display for FaultIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a fault: write class@label#ordinal, as in reset@24#3, with a class of FaultClass")
    }
}

impl std::error::Error for FaultIdError {}

/// What an operation fails with, and whether its connection ends with that.
type Failure = (FaultKind, i32, bool);

/// Codes that nobody has a class for: an unknown errno, one that Wine gives, one of Windows, a negative one.
const ODD_CODES: [i32; 4] = [71, 676, 10_108, -1];

const ACCEPT: &[Failure] = &[
    (FaultKind::NoDescriptors, 24, false),
    (FaultKind::NoMemory, 105, false),
    (FaultKind::PeerReset, 103, false),
    (FaultKind::NotPermitted, 1, false),
    (FaultKind::Other, 0, false),
];
const CONNECT: &[Failure] = &[
    (FaultKind::Refused, 111, true),
    (FaultKind::Unreachable, 113, true),
    (FaultKind::TimedOut, 110, true),
    (FaultKind::AddressInUse, 98, true),
    (FaultKind::NoDescriptors, 24, true),
    (FaultKind::Other, 0, true),
];
const OPEN: &[Failure] = &[
    (FaultKind::NoDescriptors, 24, false),
    (FaultKind::NoMemory, 12, false),
    (FaultKind::NotPermitted, 1, false),
    (FaultKind::Other, 0, false),
];
const LISTEN: &[Failure] = &[
    (FaultKind::AddressInUse, 98, false),
    (FaultKind::NoDescriptors, 24, false),
    (FaultKind::NotPermitted, 13, false),
    (FaultKind::Other, 0, false),
];
const RECEIVE: &[Failure] = &[
    (FaultKind::NoMemory, 12, false),
    (FaultKind::Unreachable, 113, false),
    (FaultKind::Other, 0, false),
    (FaultKind::TimedOut, 110, true),
    (FaultKind::PeerReset, 104, true),
];
const SEND: &[Failure] = &[
    (FaultKind::NoMemory, 105, false),
    (FaultKind::Unreachable, 113, false),
    (FaultKind::TimedOut, 110, false),
    (FaultKind::Other, 0, false),
];
const FILE_OPEN: &[Failure] = &[
    (FaultKind::NotPermitted, 13, false),
    (FaultKind::NoDescriptors, 24, false),
    (FaultKind::NoSpace, 28, false),
    (FaultKind::Other, 0, false),
];
const FILE_APPEND: &[Failure] = &[
    (FaultKind::NoSpace, 28, false),
    (FaultKind::NoSpace, 122, false),
    (FaultKind::NoSpace, 27, false),
    (FaultKind::Other, 5, false),
    (FaultKind::Other, 0, false),
];
const FILE_SYNC: &[Failure] = &[(FaultKind::Other, 5, false), (FaultKind::NoSpace, 28, false)];
const FILE_ROTATE: &[Failure] = &[
    (FaultKind::NotPermitted, 13, false),
    (FaultKind::NoDescriptors, 24, false),
    (FaultKind::NoSpace, 28, false),
];
const SHUTDOWN: &[Failure] = &[(FaultKind::NoMemory, 12, false), (FaultKind::Other, 0, false)];

/// What an operation of a faulted class fails with, and whether its connection is broken from then on.
pub(super) fn failure(class: FaultClass, drawn: Drawn) -> (Fault, bool) {
    let kinds = match class {
        FaultClass::Accept => ACCEPT,
        FaultClass::Connect => CONNECT,
        FaultClass::Open => OPEN,
        FaultClass::Listen => LISTEN,
        FaultClass::Receive => RECEIVE,
        FaultClass::Send => SEND,
        FaultClass::Shutdown => SHUTDOWN,
        FaultClass::FileOpen => FILE_OPEN,
        FaultClass::FileFull => FILE_APPEND,
        FaultClass::FileSync => FILE_SYNC,
        FaultClass::FileRotate => FILE_ROTATE,
        _ => unreachable!("{class} fails no operation"),
    };
    let (kind, code, breaks) = kinds[drawn.below(kinds.len())];
    let code = if code == 0 { ODD_CODES[drawn.next().below(ODD_CODES.len())] } else { code };
    (Fault::new(kind, code), breaks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_lie_where_they_are_looked_up() {
        for (n, class) in FaultClass::ALL.into_iter().enumerate() {
            assert_eq!((class as usize, CLASSES[n].0), (n, class));
            assert!(CLASSES[n].2 > 0 && CLASSES[n].2 < CLASSES[n].3 && CLASSES[n].3 <= MILLION);
        }
    }

    #[test]
    fn an_identity_is_its_text() {
        for class in FaultClass::ALL {
            let id = FaultId { class, label: u64::MAX - 7, ordinal: 12 };
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in ["", "reset", "reset@1", "reset@#1", "reset@x#1", "rest@1#1", "reset@1#-1"] {
            assert_eq!(text.parse::<FaultId>(), Err(FaultIdError), "{text}");
        }
        assert!(FaultIdError.to_string().contains("reset@24#3"));
    }

    #[test]
    fn a_swarm_has_each_class_in_about_half_of_its_members() {
        const MEMBERS: usize = 1_000;
        let swarm: Vec<_> = (0..MEMBERS as u64).map(Faults::drawn).collect();
        for &(class, name, rare, frequent) in CLASSES {
            let rates = swarm.iter().map(|faults| faults.rate(class)).filter(|rate| *rate != Rate::NEVER);
            let rates: Vec<u64> = rates.map(|rate| rate.times_per_million().into()).collect();
            assert!((420..=580).contains(&rates.len()), "{name} is in {} of {MEMBERS}", rates.len());
            let (low, high) = (u64::from(rare), u64::from(frequent));
            assert!(rates.iter().all(|rate| (low..=high).contains(rate)), "{name} out of its range");
            // Below the geometric mean lies about half.
            let below = rates.iter().filter(|rate| *rate * *rate < low * high).count();
            assert!((rates.len() / 3..=rates.len() * 2 / 3).contains(&below), "{name}: {below}");
        }
        assert!(swarm.iter().all(|faults| faults.late_max <= Duration::from_secs(10)));
        assert_eq!(Faults::drawn(7), Faults::drawn(7));
    }

    #[test]
    fn no_fault_is_the_default() {
        assert_eq!(Faults::default().classes().count(), 0);
        assert_eq!(Rate::per_million(u32::MAX), Rate::ALWAYS);
    }

    #[test]
    fn every_failure_can_be_drawn_and_0_is_one_too() {
        for class in [FaultClass::Accept, FaultClass::Connect, FaultClass::Receive, FaultClass::Send] {
            let drawn = |n: u64| failure(class, Drawn(hash(n, 0))).0;
            let kinds: std::collections::HashSet<_> = (0..200).map(|n| drawn(n).kind).collect();
            assert!(kinds.len() >= 4 && kinds.contains(&FaultKind::Other), "{class}: {kinds:?}");
            assert!((0..200).all(|n| drawn(n).code != 0), "{class} without a code");
            assert_ne!(failure(class, Drawn(0)).0.kind, FaultKind::Cancelled);
        }
    }
}

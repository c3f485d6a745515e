//! Defects put in on purpose, to check what finds defects.
//!
//! In a build with `--cfg planted_bugs`, one of them can be active on a thread, and the simulation must find it. In
//! every other build [`planted`] is `false` at compile time, and nothing of this is left in the program.

/// Declares the defects: name, bug class of the design, what is wrong.
macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $name:ident: $class:literal,)*) => {
        /// A defect that can be planted.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Bug {
            $($(#[doc = $doc])* $name,)*
        }

        impl Bug {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The class of bugs that it stands for, as in `docs/bug-classes.md`.
            pub fn class(self) -> &'static str {
                match self { $(Self::$name => $class,)* }
            }

            /// What is wrong.
            pub fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*).trim_ascii(),)* }
            }
        }
    };
}

bugs! {
    /// A later cause overwrites the reason of a session that is ending.
    ReasonOverwritten: "R23",
    /// The end of a session that its peer reset is not told to the handler.
    EndNotTold: "R23",
    /// The end of a session is told twice.
    EndToldTwice: "R23",
    /// A connection that was closed while it connected is opened for the handler all the same.
    OpenedWhileClosing: "R24",
    /// Frames are given to a handler that has paused or ended the session.
    FramesAfterEnd: "R24",
    /// A receive that we cancelled ourselves ends the session.
    CancelTakenForFailure: "R4",
    /// What was received before a pause is dropped.
    BacklogDropped: "R4",
    /// The peer's end of stream overtakes bytes that wait for the handler.
    EndBeforeBacklog: "R25",
    /// The peer's end of stream drops what is queued for it.
    EndTakenForDeath: "R25",
    /// The peer's end of stream does not end the session.
    EndIgnored: "R25",
    /// A message that is skipped is not counted.
    SkipNotCounted: "R31",
    /// A full queue drops its newest message instead of its oldest.
    NewestDropped: "R31",
    /// Messages that may be lost are queued without limit.
    LooseWithoutLimit: "R31",
    /// A queued value stays when a newer one of its key comes.
    ConflatedKept: "R31",
    /// A group still counts a member that has left.
    MemberForgotten: "R31",
    /// A message to a group goes to whom it is not for.
    ExceptIgnored: "R24",
    /// Who is in several groups gets their messages out of order.
    GroupsOutOfOrder: "R24",
    /// A session goes on sending after a send that failed.
    SendAfterFailedSend: "R5",
    /// A second send starts before the first has come back.
    TwoSends: "R6",
    /// Shared bytes go before what was queued earlier.
    SharedOutOfOrder: "R6",
    /// After a part was sent, the rest starts at the wrong byte.
    PiecesSkipped: "R6",
    /// A batch is used again and remembers that a part of it was sent.
    BatchReusedDirty: "R50",
    /// The batch of a send that failed does not go back to its pool.
    FailedBatchLeaks: "R8",
    /// Receive buffers are kept.
    BufferNotGivenBack: "R8",
    /// A drain ends our direction before all that was queued is sent.
    DrainDoesNotFlush: "R27",
    /// A stop drains its sessions, and nobody carries it out.
    DrainNotFlushed: "R28",
    /// A drain has no deadline.
    NoDrainDeadline: "R28",
    /// The deadline of a drain passes without effect.
    DeadlineIgnored: "R28",
    /// A connection is accepted after the drain began, and nobody drains it.
    AcceptedWhileEnding: "R28",
    /// A shutdown that failed is never taken as done.
    ShutdownFaultDropped: "R28",
    /// A session whose handler panicked stays open.
    PanicForgiven: "R29",
    /// The send queue has no limit.
    QueueWithoutLimit: "R31",
    /// A queue above its high mark does not stop reading.
    PressureUnnoticed: "R31",
    /// Rising pressure is told again and again.
    PressureToldTwice: "R31",
    /// Pressure is never relieved.
    ReliefForgotten: "R31",
    /// Pressure is relieved above the low mark.
    ReliefTooEarly: "R31",
    /// The handler is not told that the pressure is relieved.
    ReliefNotTold: "R31",
    /// A paused session is read from.
    PauseIgnored: "R31",
    /// A session that was paused is never read from again.
    ReceiveNotRearmed: "R31",
    /// A frame may announce any size.
    DeclaredSizeTrusted: "R32",
    /// A size below the header's is taken for an empty frame.
    ShortSizeAccepted: "R33",
    /// A length above the limit is believed.
    DeclaredLengthTrusted: "R32",
    /// A length that is less than what it counts wraps.
    LengthWraps: "R33",
    /// A varint with more bytes than it needs is taken.
    OverlongVarintTaken: "R33",
    /// A delimiter that a chunk cuts is missed.
    CutDelimiterMissed: "R34",
    /// A frame that comes in pieces is searched from its start with each of them.
    DelimiterLookedForAgain: "R34",
    /// The end of a cut frame takes the beginning of the next one with it.
    TailTakesTooMuch: "R34",
    /// A frame that is cut twice loses its beginning.
    TailStartsAnew: "R34",
    /// A cut frame that was given out comes before the next one again.
    SpentTailKept: "R34",
    /// The beginning of a cut frame is forgotten.
    CutFrameForgotten: "R34",
    /// A slot's next owner has the key of the last one.
    GenerationStays: "R2",
    /// A job for a session that has gone runs on the next one in its slot.
    JobForAnother: "R2",
    /// What a session may have of one turn has no end: whoever floods has all of it.
    TurnWithoutEnd: "R15",
    /// Frames without a body do not count in a turn.
    EmptyFramesFree: "R34",
    /// What one turn left of a session waits until its peer speaks again.
    HeldBackForgotten: "R15",
    /// What a rate held back waits for ever.
    RatePauseForEver: "R15",
    /// Each byte moves the deadline of its frame.
    FrameTimeMoves: "R42",
    /// Who says nothing at all has no deadline for its first frame.
    HandshakeWaits: "R42",
    /// A deadline passes while the session is not read from.
    DeadlineWhileDeaf: "R42",
    /// A paused session is closed as idle.
    IdleWhilePaused: "R40",
    /// One session more from an address is let in than the limit allows.
    OneTooManyFromAddress: "R43",
    /// A session that goes keeps its address's place.
    AddressKeepsPlace: "R43",
    /// Connections that come too fast are let in.
    AcceptRateIgnored: "R44",
    /// Slots are not used again.
    SlotNeverFreed: "R2",
    /// A drained session keeps its slot.
    SlotNotFreed: "R2",
    /// A connection that could not be opened keeps its slot and its socket.
    FailedConnectKept: "R19",
    /// A connection that one shard accepted for another is dropped.
    HandedOverLost: "R12",
    /// One session more is let in than the limit allows.
    OneSessionTooMany: "R43",
    /// A refused connection takes a place for ever.
    RefusalTakesPlace: "R43",
    /// A session that its peer reset keeps its place among `sessions_max`.
    PlaceLost: "R43",
    /// Jobs beyond the first of a turn wait for somebody to wake the shard.
    JobsLeft: "R38",
    /// A session is closed as idle although its peer has written.
    IdleWhileBusy: "R40",
    /// The idle timer is not set again after it was moved.
    IdleLookedAtOnce: "R37",
    /// Timers are rounded down.
    TimerTooEarly: "R41",
    /// Timers that are far away are looked at too late.
    TimerTooLate: "R41",
    /// Timers that are far away are lost when they come near.
    TimerLost: "R37",
    /// The driver loses the end of a send that failed.
    EndOfOperationLost: "R17",
    /// The driver reports the end of a shutdown twice.
    EndOfOperationTwice: "R7",
    /// The driver reports a close before what was in flight has come back.
    CloseDoesNotJoin: "R1",
    /// The driver reads data for a receive that was cancelled, and drops it.
    CancelEatsData: "R4",
    /// The driver hands out a receive buffer that is still out.
    BufferWithTwoOwners: "R8",
    /// The driver swaps completions of one socket.
    CompletionsReordered: "R6",
    /// A receive that found no buffer never gets one.
    StarvedForever: "R14",
    /// The queue of completions has room for twelve, and loses the others.
    CompletionsOverflow: "R11",
    /// A connection that was reset before it was accepted ends the listening.
    DeafAfterEarlyReset: "R26",
    /// Accepting does not go on after a fault.
    DeafAfterFault: "R12",
    /// Accepting does not go on when there is room for another socket.
    DeafWhenFull: "R13",
    /// Timers are told twice.
    TimerTwice: "R37",
    /// A timer of a session that is ending is told.
    SessionTimerAfterEnd: "R37",
    /// That offloaded work panicked is not told.
    PanickedWorkNotTold: "R29",
    /// A connection is opened again without its wait.
    ReconnectWithoutWait: "R30",
}

impl Bug {
    /// True if it lies in a codec that the simulated services do not speak: the corpora of the fuzzers find it.
    pub fn is_for_fuzzers_only(self) -> bool {
        matches!(
            self,
            Self::DeclaredLengthTrusted
                | Self::LengthWraps
                | Self::OverlongVarintTaken
                | Self::CutDelimiterMissed
                | Self::DelimiterLookedForAgain
        )
    }

    /// True if no rule that holds of a whole engine shows it: a test that knows the inside better finds it, and says so.
    pub fn is_for_models_only(self) -> bool {
        // What was sent already when a message was dropped is not seen from outside.
        self == Self::NewestDropped
    }

    /// True if it lies in what the fuzzed services and their handler do not do: publish to groups, send what may be lost,
    /// set timers of sessions, offload, reconnect.
    pub fn is_for_simulation_only(self) -> bool {
        matches!(
            self,
            Self::SkipNotCounted
                | Self::LooseWithoutLimit
                | Self::ConflatedKept
                | Self::MemberForgotten
                | Self::ExceptIgnored
                | Self::GroupsOutOfOrder
                | Self::SessionTimerAfterEnd
                | Self::PanickedWorkNotTold
                | Self::ReconnectWithoutWait
        )
    }

    /// True if it lies in limits that the fuzzed services do not set, and that the simulated ones either do not set or keep
    /// no rule of (how much of a turn somebody may have, when exactly a deadline passes): `anyport/tests/sim/limits.rs`
    /// finds it.
    pub fn is_for_limits_only(self) -> bool {
        matches!(
            self,
            Self::TurnWithoutEnd
                | Self::EmptyFramesFree
                | Self::HeldBackForgotten
                | Self::RatePauseForEver
                | Self::FrameTimeMoves
                | Self::HandshakeWaits
                | Self::DeadlineWhileDeaf
                | Self::IdleWhilePaused
                | Self::OneTooManyFromAddress
                | Self::AddressKeepsPlace
                | Self::AcceptRateIgnored
        )
    }
}

/// True if `bug` is active on this thread.
#[cfg(planted_bugs)]
#[inline]
pub fn planted(bug: Bug) -> bool {
    ACTIVE.get() == Some(bug)
}

/// False: nothing is planted in this build.
#[cfg(not(planted_bugs))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing may be left of it")]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(planted_bugs)]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Makes a defect active on this thread, instead of the one that was.
#[cfg(planted_bugs)]
pub fn plant(bug: Option<Bug>) {
    ACTIVE.set(bug);
}

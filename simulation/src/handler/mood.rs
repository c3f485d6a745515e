//! Which calls the handler makes, and how often.

use crate::chance::Chance;

/// What a handler may do of its own accord.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "each is the call of the API that has this name")]
pub enum Call {
    Send,
    SendShared,
    Burst,
    SendTooLarge,
    Pause,
    Resume,
    Drain,
    Kick,
    Close,
    SetTimer,
    ForEach,
    Other,
    Panic,
    StopEngine,
    Join,
    Leave,
    Publish,
    PublishExcept,
    PublishLoose,
    SendLoose,
    SendNotify,
    SendVectored,
    DrainWith,
    SetSessionTimer,
    CancelSessionTimer,
    Offload,
    OffloadForShard,
    Connect,
    ReconnectNow,
    SetReconnect,
    Append,
    SyncFile,
    RotateFile,
    CloseFile,
    StopEngineWithin,
}

impl Call {
    /// Every call.
    pub const ALL: [Self; 35] = [
        Self::Send,
        Self::SendShared,
        Self::Burst,
        Self::SendTooLarge,
        Self::Pause,
        Self::Resume,
        Self::Drain,
        Self::Kick,
        Self::Close,
        Self::SetTimer,
        Self::ForEach,
        Self::Other,
        Self::Panic,
        Self::StopEngine,
        Self::Join,
        Self::Leave,
        Self::Publish,
        Self::PublishExcept,
        Self::PublishLoose,
        Self::SendLoose,
        Self::SendNotify,
        Self::SendVectored,
        Self::DrainWith,
        Self::SetSessionTimer,
        Self::CancelSessionTimer,
        Self::Offload,
        Self::OffloadForShard,
        Self::Connect,
        Self::ReconnectNow,
        Self::SetReconnect,
        Self::Append,
        Self::SyncFile,
        Self::RotateFile,
        Self::CloseFile,
        Self::StopEngineWithin,
    ];

    /// How often it is drawn, against the others.
    fn weight(self) -> u32 {
        match self {
            Self::Send => 60,
            Self::SendShared
            | Self::SetTimer
            | Self::Resume
            | Self::Join
            | Self::Publish
            | Self::PublishExcept
            | Self::PublishLoose
            | Self::SendLoose
            | Self::SetSessionTimer => 20,
            Self::Burst
            | Self::SendTooLarge
            | Self::Pause
            | Self::ForEach
            | Self::Other
            | Self::SendNotify
            | Self::SendVectored
            | Self::Leave
            | Self::CancelSessionTimer
            | Self::Offload
            | Self::OffloadForShard
            | Self::Append => 8,
            Self::Connect | Self::ReconnectNow | Self::SetReconnect => 4,
            Self::Drain
            | Self::DrainWith
            | Self::Kick
            | Self::Close
            | Self::Panic
            | Self::SyncFile
            | Self::RotateFile
            | Self::CloseFile => 2,
            Self::StopEngine | Self::StopEngineWithin => 1,
        }
    }
}

/// Which calls the handler makes, and how often.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mood {
    /// Calls that it makes.
    pub calls: Vec<Call>,
    /// Calls in one callback, on average, in eighths.
    pub eagerness: u32,
}

impl Mood {
    pub(crate) fn drawn(chance: &mut Chance) -> Self {
        let mut calls: Vec<_> = Call::ALL.into_iter().filter(|_| chance.one_in(2)).collect();
        // One stop ends everything that could still be seen: few seeds have it.
        if !chance.one_in(8) {
            calls.retain(|call| !matches!(call, Call::StopEngine | Call::StopEngineWithin));
        }
        if !calls.contains(&Call::Send) && !chance.one_in(8) {
            calls.push(Call::Send);
        }
        Self { calls, eagerness: 1 + chance.below(24) as u32 }
    }

    pub(super) fn pick(&self, chance: &mut Chance) -> Option<Call> {
        let sum: u32 = self.calls.iter().map(|call| call.weight()).sum();
        let mut left = chance.below(u64::from(sum.max(1))) as u32;
        self.calls.iter().copied().find(|call| {
            let found = left < call.weight();
            left = left.saturating_sub(call.weight());
            found
        })
    }
}

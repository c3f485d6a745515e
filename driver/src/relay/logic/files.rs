//! Files: they are of the first link's driver, with its own keys, and that driver keeps their sentence. Here is only
//! which token an operation had.

use anyport_core::{Fault, FaultKind};

use super::{super::wire::Order, Gone, Relay};
use crate::{
    SendBatch,
    types::{Completion, Op, OpKind, Outcome, Token},
};

/// The link that has the files.
pub(super) const FILES: usize = 0;
/// Operations on files in flight: more than a driver has files would be refused there.
pub(super) const FILE_OPS_MAX: u32 = 1 << 20;

impl Relay {
    pub(super) fn submit_on_file(&mut self, token: Token, op: Op) {
        let kind = op.kind();
        let ended = self.links[FILES].gone == Gone::Ended;
        let number = if ended { None } else { self.file_ops.insert_with(|_| (token, kind)) };
        let Some(number) = number else {
            let fault = Fault::of(if ended { FaultKind::Other } else { FaultKind::NoMemory });
            return self.finished.push_back(Completion { token, outcome: op.failed(fault) });
        };
        self.order(FILES, Order::File { number: number.index, op });
    }

    pub(super) fn tell_of_file(&mut self, number: u32, outcome: Outcome, out: &mut Vec<Completion>) {
        let (key, &mut (token, _)) = self.file_ops.at_mut(number).expect("what was asked is answered once");
        self.file_ops.remove(key);
        if let Outcome::FileClosed(Ok(())) = outcome {
            self.files -= 1;
        }
        out.push(Completion { token, outcome });
    }

    /// The shard that has the files is gone.
    pub(super) fn end_files(&mut self, out: &mut Vec<Completion>) {
        let fault = Err(Fault::of(FaultKind::Other));
        for number in 0..self.file_ops.index_end() {
            let Some((_, &mut (_, kind))) = self.file_ops.at_mut(number) else { continue };
            let outcome = match kind {
                // The batch itself is lost.
                OpKind::Append => Outcome::Appended(SendBatch::of(&[]), fault),
                OpKind::Sync => Outcome::Synced(fault),
                OpKind::Rotate => Outcome::Rotated(fault),
                _ => Outcome::FileClosed(fault),
            };
            self.tell_of_file(number, outcome, out);
        }
        self.files = 0;
    }
}

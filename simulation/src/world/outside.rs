//! What other threads do with a service from outside: they ask, look, end sessions, publish, and tell clients to connect.

use std::collections::HashSet;

use anyport::{Answer, Answers, AskError, CloseReason, ConnectError, Remote, SessionId, SessionInfo};

use super::{Checked, World};
use crate::{
    handler::{Call, Everything, GROUP_NAMES, Mine},
    ledger::{Audience, GROUPS},
    plan::Dial,
    stream::Wire,
};

/// The reason that sessions are closed for from outside.
const CLOSED_OUTSIDE: CloseReason = CloseReason::Kicked(0x0ff5);
/// The last byte of a publisher that is no shard.
pub(crate) const OUTSIDE: u16 = 0xff;

/// A question that was put, and not answered when it was last looked at.
pub(super) enum Asked {
    /// A session was asked for its own id.
    Session(SessionId, Answer<SessionId>),
    /// Every shard was asked for its number.
    Shards(Answers<usize>),
    /// A service was asked for its sessions.
    List(u8, Answers<SessionInfo>),
}

impl<C: Wire> World<'_, C> {
    /// One of the last sessions, open or not, and who reaches it.
    fn pick(&self, pick: u16) -> Option<(usize, SessionId, Remote<Everything<C>>)> {
        let (at, id) = {
            let ledger = self.shared.ledger();
            let back = (pick as usize).checked_rem(ledger.records.len().min(16))?;
            let at = ledger.records.len() - 1 - back;
            (at, ledger.records[at].id)
        };
        let remote = if id.service() == 1 { self.client.clone()? } else { self.server.clone() };
        Some((at, id, remote))
    }

    pub(super) fn ask(&mut self, pick: u16) {
        if pick.is_multiple_of(4) {
            let answers = self.server.ask_all(|_, shard| shard.index());
            return self.asked.push(Asked::Shards(answers));
        }
        let Some((_, id, remote)) = self.pick(pick) else { return };
        let answer = remote.ask(id, |handler, session| {
            handler.posted(session);
            session.id()
        });
        self.asked.push(Asked::Session(id, answer));
    }

    pub(super) fn list(&mut self) {
        self.asked.push(Asked::List(0, self.server.sessions()));
        if let Some(client) = &self.client {
            self.asked.push(Asked::List(1, client.find(|info| info.queued_bytes < usize::MAX)));
        }
    }

    pub(super) fn end_session(&mut self, pick: u16, drains: bool) {
        let Some((at, id, remote)) = self.pick(pick) else { return };
        let told = if drains { remote.drain(id) } else { remote.close(id, CLOSED_OUTSIDE) };
        if told.is_ok() {
            let record = &mut self.shared.ledger().records[at];
            record.cut |= !drains;
            record.possible.extend(if drains {
                vec![CloseReason::Drained, CloseReason::DrainDeadline]
            } else {
                vec![CLOSED_OUTSIDE]
            });
        }
    }

    pub(super) fn publish(&mut self, pick: u16) {
        if !C::FRAMED {
            return;
        }
        let (service, group) = ((pick & 1) as u8, (pick >> 1) as usize % GROUPS);
        let remote = if service == 1 { self.client.as_ref() } else { Some(&self.server) };
        let Some(remote) = remote else { return };
        self.published += 1;
        let (publisher, number) = (u16::from(service) << 8 | OUTSIDE, self.published);
        {
            let mut ledger = self.shared.ledger();
            ledger.published(publisher, number, Audience::Group { service, group, except: None });
            ledger.published_outside[service as usize] = true;
        }
        let body = self.shared.messages.stray(publisher, number);
        // Refused by a shard that has ended or is full: then nobody is sent it.
        let _ = remote.publish(&remote.group(GROUP_NAMES[group]), 0, &body);
    }

    pub(super) fn connect_client(&mut self) {
        let Some(client) = &self.client else { return };
        let is_manual = self.plan.config.dial == Dial::Manual;
        let wanted = self.shared.ledger().want();
        let told = client.connect_with(None, Mine::wanted(wanted));
        let right = match &told {
            Ok(()) | Err(ConnectError::AtCapacity { .. } | ConnectError::Full) => is_manual,
            Err(ConnectError::Ended) => is_manual && self.shared.ledger().stopping.is_some(),
            Err(ConnectError::NotManual { .. }) => !is_manual,
            Err(_) => false,
        };
        self.shared.ledger().ensure(right, || format!("to tell a client to connect answered {told:?}"));
    }

    pub(super) fn reconnect_client(&mut self) {
        let Some(client) = &self.client else { return };
        let shards = client.shards();
        self.shared.ledger().hurries_open += shards;
        let _ = client.reconnect_now();
        for shard in 0..shards {
            // Behind it: from then on, waits count again. If this is refused, none of them does any more.
            let _ = client.post_to_shard(shard, move |handler, on| {
                let mut ledger = handler.shared.ledger();
                ledger.hurries_open -= 1;
                ledger.hurried_connections(shard, shards, on.now());
            });
        }
    }

    /// Every question has been answered, and rightly.
    pub(super) fn look_at_answers(&mut self) -> Checked {
        for asked in std::mem::take(&mut self.asked) {
            match asked {
                Asked::Session(id, mut answer) => match answer.try_take() {
                    Some(Ok(told)) if told == id => {}
                    Some(Err(AskError::Gone | AskError::Full)) => {}
                    Some(Err(AskError::Panicked)) if self.shared.mood.calls.contains(&Call::Panic) => {}
                    Some(Err(AskError::Ended)) if self.shared.ledger().stopping.is_some() => {}
                    other => return Err(format!("session {id} was asked, and the answer is {other:?}")),
                },
                Asked::Shards(mut answers) => match answers.try_take() {
                    Some(Ok(told)) if told.iter().copied().eq(0..self.server.shards()) => {}
                    Some(Err(AskError::Full)) => {}
                    Some(Err(AskError::Ended)) if self.shared.ledger().stopping.is_some() => {}
                    other => return Err(format!("all shards were asked, and the answer is {other:?}")),
                },
                Asked::List(service, mut answers) => match answers.try_take() {
                    Some(Ok(infos)) => self.look_at_list(service, &infos, false)?,
                    Some(Err(AskError::Full)) => {}
                    Some(Err(AskError::Ended)) if self.shared.ledger().stopping.is_some() => {}
                    other => return Err(format!("service {service} was asked, and the answer is {other:?}")),
                },
            }
        }
        Ok(())
    }

    /// A list names sessions that were opened, each once; at rest, all that are open and no other.
    fn look_at_list(&self, service: u8, infos: &[SessionInfo], at_rest: bool) -> Checked {
        let ledger = self.shared.ledger();
        let named: HashSet<_> = infos.iter().map(|info| info.id.bits()).collect();
        if named.len() != infos.len() {
            return Err(format!("service {service} has {} sessions, and names some twice", named.len()));
        }
        let of_service = || ledger.records.iter().filter(|record| record.id.service() == service);
        let known: HashSet<_> = of_service().map(|record| record.id.bits()).collect();
        if let Some(bits) = named.iter().find(|bits| !known.contains(bits)) {
            return Err(format!("service {service} names session {bits:x}, which was not opened"));
        }
        let open = of_service().filter(|record| record.closed.is_none());
        match open.map(|record| record.id).find(|id| !named.contains(&id.bits())) {
            Some(id) if at_rest => Err(format!("session {id} is open, and is not in the list")),
            _ => {
                let open = of_service().filter(|record| record.closed.is_none()).count();
                let more = at_rest && named.len() != open;
                if more {
                    Err(format!("{open} sessions are open, and {} are named", named.len()))
                } else {
                    Ok(())
                }
            }
        }
    }

    /// At rest: the lists are exact, and who ended is remembered with the right reason.
    pub(super) fn look_at_lists(&mut self) -> Checked {
        if self.shared.ledger().stopping.is_none() {
            let mut lists = vec![(0, self.server.sessions())];
            lists.extend(self.client.as_ref().map(|client| (1, client.sessions())));
            self.rest("all sessions were asked for")?;
            for (service, mut answers) in lists {
                match answers.try_take() {
                    Some(Ok(infos)) => self.look_at_list(service, &infos, true)?,
                    other => return Err(format!("service {service} was asked at rest: {other:?}")),
                }
            }
        }
        let ledger = self.shared.ledger();
        for closed in self.server.recently_closed() {
            let record = ledger.records.iter().find(|record| record.id == closed.id);
            let told = record.and_then(|record| record.closed);
            if told != Some(closed.reason) {
                let (id, reason) = (closed.id, closed.reason);
                return Err(format!("session {id} is remembered as {reason:?}, and was told {told:?}"));
            }
        }
        Ok(())
    }
}

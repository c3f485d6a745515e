//! The groups of a service as one shard has them: its members, and what is published in a turn.

use std::{collections::HashMap, sync::Arc};

use anyport_core::{
    Codec, Encode, Frame, Losses, Overflow, SessionId, SlabKey,
    planted::{Bug, planted},
};

use super::{
    Edition, EditionOf, Group, Reach, Registry,
    deliver::{Bytes, Delivery, LostOf, Tally},
    edition::{Log, Message},
    registry::Shared,
};
use crate::{
    handler::Handler,
    message::not_carried,
    remote::Job,
    session::{EncoderOf, Local, Slot},
};

/// A log of this size is given to the members before the turn ends.
const LOG_MAX_BYTES: usize = 1 << 20;

/// What one shard knows of its service's groups.
pub(crate) struct GroupTable<H: Handler> {
    registry: Arc<Registry>,
    encoder: EncoderOf<H>,
    groups: Vec<Option<LocalGroup>>,
    free: Vec<u32>,
    log: Log,
    /// Groups with messages in the log.
    dirty: Vec<u32>,
    /// Members of the group that is being served which are in other groups, too.
    several: Vec<SlabKey>,
    /// Numbers of messages, put in order for a session in several groups.
    numbers: Vec<u32>,
    /// Messages that were queued before and had to make room for another group's.
    lost: Vec<LostOf>,
}

/// One group on one shard.
struct LocalGroup {
    shared: Arc<Shared>,
    members: Vec<SlabKey>,
    /// Its messages in the log.
    in_log: Vec<u32>,
    /// With messages in the log: its place among the groups that have some.
    in_dirty: u32,
    /// The message in the log that has a key's newest value.
    keys: HashMap<u64, u32>,
}

/// The groups that a session is in.
#[derive(Default)]
pub(crate) struct Memberships {
    list: Vec<Membership>,
    /// In this turn of the log, messages up to this one were given to it already.
    settled: (u64, u32),
}

struct Membership {
    group: u32,
    /// Place among the group's members.
    place: u32,
    /// In this turn of the log, it gets only messages from this one on: it joined behind the others.
    from: (u64, u32),
}

impl Memberships {
    fn position(&self, group: u32) -> Option<usize> {
        self.list.iter().position(|membership| membership.group == group)
    }

    /// The first message of the log that it has not been given of a group.
    fn first(&self, turn: u64, membership: &Membership) -> u32 {
        let in_turn = |(of, number): (u64, u32)| if of == turn { number } else { 0 };
        in_turn(self.settled).max(in_turn(membership.from))
    }
}

impl<H: Handler> GroupTable<H> {
    pub(crate) fn new(registry: Arc<Registry>, codec: &H::Codec) -> Self {
        let (_, encoder) = codec.split();
        Self {
            registry,
            encoder,
            groups: Vec::new(),
            free: Vec::new(),
            log: Log::default(),
            dirty: Vec::new(),
            several: Vec::new(),
            numbers: Vec::new(),
            lost: Vec::new(),
        }
    }

    pub(crate) fn group(&self, name: &str) -> Group {
        self.registry.group(name)
    }

    /// True if nothing published waits for its members.
    pub(crate) fn is_settled(&self) -> bool {
        self.log.messages.is_empty()
    }

    fn local(&self, place: u32) -> &LocalGroup {
        self.groups[place as usize].as_ref().expect("a place in use has its group")
    }

    fn local_mut(&mut self, place: u32) -> &mut LocalGroup {
        self.groups[place as usize].as_mut().expect("a place in use has its group")
    }

    /// The place in the table of a group that may be another service's.
    fn find(&self, group: &Group, shard: usize) -> Option<u32> {
        if group.shared.is_of(&self.registry) { group.shared.place(shard) } else { None }
    }

    /// Its place in the table; made if it has none.
    fn place(&mut self, group: &Group, shard: usize) -> u32 {
        let of_all = &group.shared;
        if let Some(place) = of_all.place(shard) {
            return place;
        }
        let local = LocalGroup {
            shared: Arc::clone(of_all),
            members: Vec::new(),
            in_log: Vec::new(),
            in_dirty: 0,
            keys: HashMap::new(),
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.groups.push(None);
            (self.groups.len() - 1) as u32
        });
        self.groups[place as usize] = Some(local);
        of_all.set_place(shard, Some(place));
        place
    }

    /// A group without members and messages needs no place.
    fn forget_if_unused(&mut self, place: u32, shard: usize) {
        let local = self.local(place);
        if local.members.is_empty() && local.in_log.is_empty() {
            local.shared.set_place(shard, None);
            self.groups[place as usize] = None;
            self.free.push(place);
        }
    }
}

// ---- members ----

impl<H: Handler> Local<H> {
    /// False if it is in it already, or is ending.
    pub(crate) fn join(&mut self, key: SlabKey, group: &Group) -> bool {
        group.assert_of(&self.groups.registry);
        let shard = self.shard as usize;
        let slot = self.sessions.get_mut(key).expect("a session's view does not outlive its slot");
        if !slot.connection.is_open() {
            return false;
        }
        let place = self.groups.place(group, shard);
        let memberships = slot.memberships.get_or_insert_default();
        if memberships.position(place).is_some() {
            return false;
        }
        let from = (self.groups.log.turn, self.groups.log.messages.len() as u32);
        let local = self.groups.local_mut(place);
        memberships.list.push(Membership { group: place, place: local.members.len() as u32, from });
        local.members.push(key);
        local.shared.set_members(shard, local.members.len());
        true
    }

    /// False if it was not in it. What was published before is still sent to it.
    pub(crate) fn leave(&mut self, key: SlabKey, group: &Group) -> bool {
        let Some(place) = self.groups.find(group, self.shard as usize) else { return false };
        let slot = self.slot(key);
        let Some(at) = slot.memberships.as_ref().and_then(|memberships| memberships.position(place)) else {
            return false;
        };
        self.settle(key);
        self.remove(key, at);
        true
    }

    /// The session has ended.
    pub(crate) fn leave_all(&mut self, key: SlabKey) {
        let left = |slot: &Slot<H>| slot.memberships.as_ref().is_some_and(|groups| !groups.list.is_empty());
        while left(self.slot(key)) {
            self.remove(key, 0);
        }
    }

    /// Takes a session out of the group that is `at` in its list.
    fn remove(&mut self, key: SlabKey, at: usize) {
        let slot = self.slot(key);
        let memberships = slot.memberships.as_mut().expect("it is in a group");
        let Membership { group, place, .. } = memberships.list.swap_remove(at);
        let members = &mut self.groups.local_mut(group).members;
        members.swap_remove(place as usize);
        if let Some(&moved) = members.get(place as usize) {
            let memberships = self.slot(moved).memberships.as_mut().expect("a member is in a group");
            let at = memberships.position(group).expect("a member is in the group");
            memberships.list[at].place = place;
        }
        let shard = self.shard as usize;
        let local = self.groups.local(group);
        if !planted(Bug::MemberForgotten) {
            local.shared.set_members(shard, local.members.len());
        }
        self.groups.forget_if_unused(group, shard);
    }

    /// The groups of a session.
    pub(crate) fn groups_of(&mut self, key: SlabKey) -> Vec<Group> {
        let slot = self.sessions.get(key).expect("a session's view does not outlive its slot");
        let memberships = slot.memberships.iter().flat_map(|memberships| &memberships.list);
        let group = |membership: &Membership| self.groups.local(membership.group);
        memberships.map(|membership| Group { shared: Arc::clone(&group(membership).shared) }).collect()
    }

    /// True if the session is in the group.
    pub(crate) fn is_in(&self, key: SlabKey, group: &Group) -> bool {
        let place = self.groups.find(group, self.shard as usize);
        let slot = self.sessions.get(key);
        let memberships = slot.and_then(|slot| slot.memberships.as_ref());
        memberships.zip(place).is_some_and(|(memberships, place)| memberships.position(place).is_some())
    }

    /// The members of a group that are on this shard.
    pub(crate) fn members_here(&self, group: &Group) -> Vec<SlabKey> {
        let place = self.groups.find(group, self.shard as usize);
        place.map_or_else(Vec::new, |place| self.groups.local(place).members.clone())
    }

    // ---- messages ----

    /// Puts a message into the log; its members are sent it at the end of the turn.
    pub(crate) fn publish(
        &mut self,
        group: &Group,
        frame: &Frame<'_>,
        overflow: Overflow,
        except: Option<SessionId>,
    ) -> Reach {
        group.assert_of(&self.groups.registry);
        let shard = self.shard as usize;
        let size = match self.groups.encoder.encoded_size(frame) {
            Ok(size) => size,
            Err(error) => {
                self.counters.frames_refused += 1;
                return Reach::Refused(not_carried(error));
            }
        };
        group.shared.count_published(shard);
        let members = group.shared.members();
        if members == 0 {
            return Reach::Members(0);
        }
        let place = self.groups.place(group, shard);
        let GroupTable { encoder, log, dirty, groups, .. } = &mut self.groups;
        let local = groups[place as usize].as_mut().expect("it was just made");
        let start = log.bytes.len();
        encoder.encode(frame, &mut log.bytes);
        debug_assert_eq!(log.bytes.len() - start, size, "the encoder wrote another size than it said");
        let number = log.messages.len() as u32;
        if let Overflow::Conflate { key } = overflow
            && let Some(older) = local.keys.insert(key, number)
            && log.messages[older as usize].except == except
        {
            // The newest value of the turn is the only one that anybody is sent.
            log.messages[older as usize].dead = true;
        }
        if local.in_log.is_empty() {
            local.in_dirty = dirty.len() as u32;
            dirty.push(place);
        }
        local.in_log.push(number);
        let (start, end) = (start as u32, log.bytes.len() as u32);
        log.messages.push(Message { group: place, start, end, overflow, except, dead: false });
        if log.bytes.len() > LOG_MAX_BYTES {
            self.distribute();
        }
        let left_out = |id: SessionId| {
            (id.shard(), id.service()) == (self.shard, self.service) && self.is_in(id.slot(), group)
        };
        Reach::Members(members - usize::from(except.is_some_and(left_out)))
    }

    /// Gives a session what was published to its groups in this turn, before something else is queued for it, it leaves
    /// one of them, or it drains: everything comes in the order in which it was done.
    #[inline]
    pub(crate) fn settle(&mut self, key: SlabKey) {
        if !self.groups.is_settled() && self.slot(key).memberships.is_some() {
            self.settle_member(key);
        }
    }

    #[cold]
    fn settle_member(&mut self, key: SlabKey) {
        // The log is not sealed yet: what is in it is copied.
        let log = std::mem::take(&mut self.groups.log.bytes);
        self.deliver_in_order(key, Bytes::Log(&log));
        self.groups.log.bytes = log;
    }

    /// Gives every member what was published in the turn.
    pub(crate) fn distribute(&mut self) {
        if self.groups.is_settled() {
            return;
        }
        let edition = self.groups.log.seal();
        let mut dirty = std::mem::take(&mut self.groups.dirty);
        self.send_to_other_shards(&edition, &dirty);
        for &place in &dirty {
            self.distribute_group(place, &edition);
        }
        self.groups.log.clear();
        for place in dirty.drain(..) {
            let local = self.groups.local_mut(place);
            local.in_log.clear();
            local.keys.clear();
            self.groups.forget_if_unused(place, self.shard as usize);
        }
        self.groups.dirty = dirty;
    }

    fn distribute_group(&mut self, place: u32, edition: &Edition) {
        let local = self.groups.groups[place as usize].take().expect("a dirty group has its place");
        let mut tally = Tally::default();
        let mut several = std::mem::take(&mut self.groups.several);
        let messages = std::mem::take(&mut self.groups.log.messages);
        let turn = self.groups.log.turn;
        let mut each =
            self.make_room_for(&local, local.in_log.iter().map(|&number| &messages[number as usize]));
        for &key in &local.members {
            self.make_room_for_next(&mut each);
            let slot = self.sessions.get_mut(key).expect("a member has its slot");
            let memberships = slot.memberships.as_ref().expect("a member is in a group");
            if memberships.list.len() > 1 {
                several.push(key);
                continue;
            }
            let first = memberships.first(turn, &memberships.list[0]);
            let of_group = local.in_log.iter().filter(|&&number| number >= first);
            let of_group = of_group.map(|&number| &messages[number as usize]);
            let id = SessionId::new(self.shard, self.service, key);
            let to = Delivery {
                id,
                group: local.shared.id,
                pool: &mut self.pool,
                marks: &self.limits.send,
                tally: &mut tally,
                lost: &mut self.groups.lost,
            };
            to.deliver(slot, &Bytes::Edition(edition), of_group);
            if !std::mem::replace(&mut slot.dirty, true) {
                self.dirty.push(key);
            }
        }
        tally.count(&local.shared, self.shard as usize, &mut self.counters);
        self.groups.log.messages = messages;
        self.groups.groups[place as usize] = Some(local);
        self.count_lost();
        for key in several.drain(..) {
            self.deliver_in_order(key, Bytes::Edition(edition));
        }
        self.groups.several = several;
    }

    /// Gives a session, in the order of the log, what it has not had of all its groups.
    fn deliver_in_order(&mut self, key: SlabKey, bytes: Bytes<'_>) {
        let id = self.id(key);
        let slot = self.sessions.get_mut(key).expect("a member has its slot");
        let Some(memberships) = &mut slot.memberships else { return };
        let GroupTable { groups, log, numbers, .. } = &mut self.groups;
        numbers.clear();
        for membership in &memberships.list {
            let first = memberships.first(log.turn, membership);
            let local =
                groups[membership.group as usize].as_ref().expect("a group with a member has its place");
            numbers.extend(local.in_log.iter().filter(|&&number| number >= first));
        }
        memberships.settled = (log.turn, log.messages.len() as u32);
        numbers.sort_unstable();
        if planted(Bug::GroupsOutOfOrder) {
            numbers.reverse();
        }
        if numbers.is_empty() {
            return;
        }
        // Without budgets there is nothing to add up.
        if self.pool.allowance() < usize::MAX {
            let size = numbers.iter().map(|&number| log.messages[number as usize].range().len()).sum();
            let spared = slot.connection.queued_bytes() + size;
            self.ensure_allowance(size, spared);
        }
        let GroupTable { groups, log, numbers, lost, .. } = &mut self.groups;
        let slot = self.sessions.get_mut(key).expect("it was just seen");
        let message = |&number: &u32| &log.messages[number as usize];
        for of_group in numbers.chunk_by(|one, other| message(one).group == message(other).group) {
            let group = message(&of_group[0]).group;
            let local = groups[group as usize].as_ref().expect("a dirty group has its place");
            let mut tally = Tally::default();
            let to = Delivery {
                id,
                group: local.shared.id,
                pool: &mut self.pool,
                marks: &self.limits.send,
                tally: &mut tally,
                lost,
            };
            to.deliver(slot, &bytes, of_group.iter().map(message));
            tally.count(&local.shared, self.shard as usize, &mut self.counters);
        }
        self.count_lost();
        self.mark(key);
    }

    // ---- other shards ----

    /// One message to each shard that has members of what was published.
    fn send_to_other_shards(&self, edition: &Edition, dirty: &[u32]) {
        let here = self.shard as usize;
        let mut for_others = None;
        for (shard, mail) in self.mails.iter().enumerate() {
            let on_it = |place: &u32| self.groups.local(*place).shared.members_on(shard) > 0;
            if shard != here && dirty.iter().any(on_it) {
                // Made once, for all of them.
                let of_turn = for_others.get_or_insert_with(|| Arc::new(self.edition_of(edition, dirty)));
                mail.send(Job::Edition(Arc::clone(of_turn)));
            }
        }
    }

    /// What was published in the turn, for shards that have other places for its groups.
    fn edition_of(&self, edition: &Edition, dirty: &[u32]) -> EditionOf {
        let groups = dirty.iter().map(|&place| Arc::clone(&self.groups.local(place).shared)).collect();
        let mut messages = self.groups.log.messages.clone();
        for message in &mut messages {
            message.group = self.groups.local(message.group).in_dirty;
        }
        EditionOf { edition: Arc::clone(edition), groups, messages }
    }

    /// An edition of another shard, for the members here. Its messages come in the order of the log: who is in several
    /// of its groups gets them so.
    pub(crate) fn take_edition(&mut self, of_turn: &EditionOf) {
        let EditionOf { edition, groups, messages } = of_turn;
        for run in messages.chunk_by(|one, other| one.group == other.group) {
            if let Some(place) = groups[run[0].group as usize].place(self.shard as usize) {
                self.take_run(place, edition, run);
            }
        }
    }

    /// Messages of one group, one behind the other.
    fn take_run(&mut self, place: u32, edition: &Edition, run: &[Message]) {
        let local = self.groups.groups[place as usize].take().expect("a place in use has its group");
        let mut tally = Tally::default();
        let mut each = self.make_room_for(&local, run.iter());
        for &key in &local.members {
            self.make_room_for_next(&mut each);
            let slot = self.sessions.get_mut(key).expect("a member has its slot");
            let id = SessionId::new(self.shard, self.service, key);
            let to = Delivery {
                id,
                group: local.shared.id,
                pool: &mut self.pool,
                marks: &self.limits.send,
                tally: &mut tally,
                lost: &mut self.groups.lost,
            };
            to.deliver(slot, &Bytes::Edition(edition), run.iter());
            if !std::mem::replace(&mut slot.dirty, true) {
                self.dirty.push(key);
            }
        }
        tally.count(&local.shared, self.shard as usize, &mut self.counters);
        self.groups.groups[place as usize] = Some(local);
        self.count_lost();
    }

    /// Counts what made room for others.
    fn count_lost(&mut self) {
        while let Some((key, group, losses)) = self.groups.lost.pop() {
            self.count_lost_by(key, group, losses);
        }
    }

    /// As [`count_lost`](Self::count_lost), of one session that was sent something singly.
    pub(crate) fn count_lost_of(&mut self, key: SlabKey) {
        while let Some((group, losses)) = self.slot(key).connection.next_lost() {
            self.count_lost_by(key, group, losses);
        }
    }

    fn count_lost_by(&mut self, key: SlabKey, id: u32, losses: Losses) {
        let memberships = self.sessions.get(key).and_then(|slot| slot.memberships.as_ref());
        let mut its = memberships.iter().flat_map(|memberships| &memberships.list);
        let shared = |membership: &Membership| &self.groups.local(membership.group).shared;
        match its.find(|membership| shared(membership).id == id) {
            Some(membership) => shared(membership).count_lost(self.shard as usize, losses),
            // It has left the group since.
            None => {
                if let Some(shared) = self.groups.registry.of_id(id) {
                    shared.count_lost(self.shard as usize, losses);
                }
            }
        }
    }

    /// Asks the budgets for room for these messages at every member of their group. If there is not so much, gives what
    /// each member needs: they are asked one by one then, so that as many get them as there is room for.
    fn make_room_for<'m>(
        &mut self,
        local: &LocalGroup,
        messages: impl Iterator<Item = &'m Message>,
    ) -> usize {
        // Without budgets there is nothing to add up.
        if self.pool.allowance() == usize::MAX {
            return 0;
        }
        let each: usize = messages.map(|message| message.range().len()).sum();
        if self.has_allowance(each.saturating_mul(local.members.len())) { 0 } else { each }
    }

    #[inline]
    fn make_room_for_next(&mut self, each: &mut usize) {
        // Who holds less than that is not closed for it: what there is not for one, there is for none behind it.
        if *each > 0 && !self.ensure_allowance(*each, *each) {
            *each = 0;
        }
    }
}

// ---- rules ----

impl<H: Handler> Local<H> {
    /// What must hold between turns.
    pub(crate) fn audit_groups(&self) -> Result<(), String> {
        if !self.groups.is_settled() {
            return Err("what was published in the turn was not given to the members".to_owned());
        }
        let mut members = 0;
        for (place, local) in self.groups.groups.iter().enumerate() {
            let Some(local) = local else { continue };
            let name = &local.shared.name;
            if local.shared.members_on(self.shard as usize) != local.members.len() {
                return Err(format!("group `{name}` does not count its members"));
            }
            for (at, &key) in local.members.iter().enumerate() {
                let memberships = self.sessions.get(key).and_then(|slot| slot.memberships.as_ref());
                let has = |membership: &Membership| {
                    (membership.group, membership.place) == (place as u32, at as u32)
                };
                if !memberships.is_some_and(|memberships| memberships.list.iter().any(has)) {
                    return Err(format!("a member of group `{name}` does not know of it"));
                }
            }
            members += local.members.len();
        }
        let known = self.sessions.iter().filter_map(|(_, slot)| slot.memberships.as_ref());
        let known: usize = known.map(|memberships| memberships.list.len()).sum();
        if known == members {
            Ok(())
        } else {
            Err(format!("sessions are in {known} groups, and groups have {members} members"))
        }
    }
}

//! The chat itself: names, rooms, commands. Lines in, lines out: `nc` is a client.
//!
//! All sessions are on one shard, so that names and rooms are maps of this handler, without a lock or a message to ask
//! whether a name is free. People type slowly: what one thread relays is enough for many thousands of them. A chat that
//! outgrows it keeps its names on one shard and asks it by `Remote::ask`; rooms span shards by themselves.
//!
//! What the chat says itself begins with `* `, and what it cannot do with `* sorry: `; nobody's name does.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    fmt::Display,
    io::Write,
    time::Duration,
};

use anyport::{CloseReason, Frame, Group, Handler, Lines, Session, SessionId, TimerKey};

/// Bytes of a line that is taken; one that is longer than a frame ends the session.
pub(crate) const TEXT_SIZE_MAX: usize = 1000;
/// Room for a text, and what the chat puts before it.
pub(crate) const LINE_SIZE_MAX: usize = TEXT_SIZE_MAX + 100;
/// Members up to which a room is told who comes and goes: in a larger one nobody could read anything else.
const TOLD_MAX: usize = 50;
/// Names and rooms that are listed at most.
const LISTED_MAX: usize = 100;
const NAME_LENGTH_MAX: usize = 20;
const FIRST_ROOM: &str = "lobby";
const LOGIN: TimerKey = TimerKey(0);

const WELCOME: &str = "* welcome; say your name, like: /nick ann";
const HELP: [&str; 8] = [
    "* /nick NAME      take a name, or another one",
    "* /join ROOM      go to a room; it is made if there is none",
    "* /leave          leave the room",
    "* /who            who is in the room",
    "* /rooms          all rooms",
    "* /msg NAME TEXT  say something to one person",
    "* /quit           go",
    "* anything else is said to the room",
];

/// The handler.
pub(crate) struct Chat {
    login_timeout: Duration,
    /// Everybody with a name, by the name in small letters.
    names: HashMap<String, SessionId>,
    /// Every room with somebody in it.
    rooms: BTreeMap<String, Group>,
    /// The line that is being made.
    line: Vec<u8>,
}

/// What is kept of a session.
#[derive(Default)]
pub(crate) struct Guest {
    /// Empty until it has said one.
    name: String,
    room: Option<Group>,
}

impl Chat {
    pub(crate) fn new(login_timeout: Duration) -> Self {
        Self { login_timeout, names: HashMap::new(), rooms: BTreeMap::new(), line: Vec::new() }
    }

    // ---- talking ----

    /// Says something to the room.
    fn say(&mut self, session: &mut Session<Self>, text: &str) {
        let id = session.id();
        let Guest { name, room } = session.state();
        let Some(room) = room.clone() else {
            return sorry(session, "you are in no room: /join ROOM");
        };
        self.line.clear();
        self.line.extend_from_slice(name.as_bytes());
        self.line.extend_from_slice(b": ");
        push_harmless(&mut self.line, text);
        session.shard().publish_except(&room, id, Frame { kind: 0, body: &self.line });
    }

    /// Says something to one person.
    fn whisper(&mut self, session: &mut Session<Self>, to: &str, text: &str) {
        let Some(&id) = self.names.get(&to.to_lowercase()) else {
            return sorry(session, format_args!("nobody here is called {}", short(to)));
        };
        if text.is_empty() {
            return sorry(session, "say something: /msg NAME TEXT");
        }
        self.line.clear();
        self.line.extend_from_slice(session.state().name.as_bytes());
        self.line.extend_from_slice(b" (to you): ");
        push_harmless(&mut self.line, text);
        if let Some(mut other) = session.shard().session(id) {
            other.send(&self.line);
        }
    }

    /// Tells a room of somebody, unless it is so large that nobody could follow.
    fn announce(&mut self, session: &mut Session<Self>, room: &Group, news: impl Display) {
        if room.members() <= TOLD_MAX {
            let id = session.id();
            self.line.clear();
            write!(self.line, "* {news}").expect("writing to memory");
            session.shard().publish_except(room, id, Frame { kind: 0, body: &self.line });
        }
    }

    // ---- names and rooms ----

    fn name(&mut self, session: &mut Session<Self>, wanted: &str) {
        if !is_name(wanted) {
            let rule =
                format_args!("a name is a letter, then letters, digits, - and _, up to {NAME_LENGTH_MAX}");
            return sorry(session, rule);
        }
        let id = session.id();
        match self.names.entry(wanted.to_lowercase()) {
            // One may take one's own name again, in other letters.
            Entry::Occupied(taken) if *taken.get() != id => {
                return sorry(session, format_args!("the name {wanted} is taken"));
            }
            entry => entry.insert_entry(id),
        };
        let before = std::mem::replace(&mut session.state().name, wanted.to_owned());
        if !before.eq_ignore_ascii_case(wanted) {
            self.names.remove(&before.to_lowercase());
        }
        tell(session, format_args!("you are {wanted}"));
        if before.is_empty() {
            session.cancel_timer(LOGIN);
            self.join(session, FIRST_ROOM);
        } else if let Some(room) = session.state().room.clone() {
            self.announce(session, &room, format_args!("{before} is now {wanted}"));
        }
    }

    fn join(&mut self, session: &mut Session<Self>, name: &str) {
        if !is_name(name) {
            return sorry(session, "a room is named as people are: /join ROOM");
        }
        self.leave(session);
        let make = || session.shard().group(name);
        let room = self.rooms.entry(name.to_lowercase()).or_insert_with(make).clone();
        if !session.join(&room) {
            // It is ending: its queue did not hold what it was told last.
            if room.members() == 0 {
                self.rooms.remove(&name.to_lowercase());
            }
            return;
        }
        let others = room.members() - 1;
        tell(session, format_args!("you are in {} with {others} others", room.name()));
        let person = session.state().name.clone();
        self.announce(session, &room, format_args!("{person} is here"));
        session.state().room = Some(room);
    }

    /// Leaves the room; false if it is in none.
    fn leave(&mut self, session: &mut Session<Self>) -> bool {
        let Some(room) = session.state().room.take() else { return false };
        let person = session.state().name.clone();
        self.announce(session, &room, format_args!("{person} has gone"));
        session.leave(&room);
        if room.members() == 0 {
            self.rooms.remove(&room.name().to_lowercase());
        }
        true
    }

    /// Somebody goes: the place in the room and the name are free.
    fn forget(&mut self, session: &mut Session<Self>) {
        self.leave(session);
        let name = std::mem::take(&mut session.state().name);
        self.names.remove(&name.to_lowercase());
    }

    fn who(session: &mut Session<Self>) {
        let Some(room) = session.state().room.clone() else {
            return sorry(session, "you are in no room: /join ROOM");
        };
        let mut names = Vec::new();
        session.shard().for_each_member(&room, |member| {
            if names.len() < LISTED_MAX {
                names.push(member.state().name.clone());
            }
        });
        tell(session, format_args!("{} in {}:", room.members(), room.name()));
        in_lines(&names, |line| tell(session, line));
    }

    // ---- commands ----

    fn command(&mut self, session: &mut Session<Self>, command: &str) {
        let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
        let rest = rest.trim();
        match word {
            "nick" => self.name(session, rest),
            "help" => {
                for line in HELP {
                    session.send(line.as_bytes());
                }
            }
            "quit" => {
                // At once: the end of the session takes as long as the other end lets it.
                self.forget(session);
                session.drain_with(Frame { kind: 0, body: b"* bye" });
            }
            _ if session.state().name.is_empty() => sorry(session, "first say your name: /nick NAME"),
            "join" => self.join(session, rest),
            "leave" if self.leave(session) => tell(session, "you are in no room"),
            "leave" => sorry(session, "you are in no room"),
            "who" => Self::who(session),
            "rooms" => {
                let rooms = self.rooms.values().take(LISTED_MAX);
                let rooms: Vec<_> =
                    rooms.map(|room| format!("{} ({})", room.name(), room.members())).collect();
                tell(session, format_args!("{} rooms:", self.rooms.len()));
                in_lines(&rooms, |line| tell(session, line));
            }
            "msg" => {
                let (to, text) = rest.split_once(' ').unwrap_or((rest, ""));
                self.whisper(session, to, text.trim());
            }
            _ => sorry(session, format_args!("there is no /{}: /help", short(word))),
        }
    }
}

impl Handler for Chat {
    type State = Guest;
    type Codec = Lines;

    fn on_open(&mut self, session: &mut Session<Self>) {
        session.send(WELCOME.as_bytes());
        session.set_timer(LOGIN, self.login_timeout);
    }

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        let line = String::from_utf8_lossy(&frame);
        let line = line.trim_end();
        if line.len() > TEXT_SIZE_MAX {
            return sorry(session, format_args!("a line has {TEXT_SIZE_MAX} bytes at most"));
        }
        match line.strip_prefix('/') {
            Some(command) => self.command(session, command),
            None if line.is_empty() => {}
            // Who does not know the commands says a name.
            None if session.state().name.is_empty() => self.name(session, line),
            None => self.say(session, line),
        }
    }

    /// No name was said in time.
    fn on_session_timer(&mut self, session: &mut Session<Self>, _login: TimerKey) {
        session.drain_with(Frame { kind: 0, body: b"* sorry: you did not say your name in time" });
    }

    fn on_close(&mut self, session: &mut Session<Self>, _reason: CloseReason) {
        self.forget(session);
    }
}

fn tell(session: &mut Session<Chat>, text: impl Display) {
    session.send(format!("* {text}").as_bytes());
}

fn sorry(session: &mut Session<Chat>, text: impl Display) {
    session.send(format!("* sorry: {text}").as_bytes());
}

fn is_name(text: &str) -> bool {
    let letters = text.chars().all(|char| char.is_ascii_alphanumeric() || "-_".contains(char));
    letters && text.len() <= NAME_LENGTH_MAX && text.starts_with(|char: char| char.is_ascii_alphabetic())
}

/// What somebody typed, repeated to them: as much as a name has, and nothing that moves a cursor.
fn short(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(NAME_LENGTH_MAX).collect()
}

/// Adds a text without what would be a command to the terminals of others.
fn push_harmless(line: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return line.extend_from_slice(text.as_bytes());
    }
    for char in text.chars() {
        let char = if char.is_control() { ' ' } else { char };
        line.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// Words, as many on a line as it holds.
fn in_lines(words: &[String], mut each: impl FnMut(&str)) {
    const WIDTH: usize = 76;
    let mut line = String::new();
    for word in words {
        if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
            each(&line);
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        each(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_look_like_names() {
        for good in ["a", "Ann", "b2-b_", &"x".repeat(NAME_LENGTH_MAX)] {
            assert!(is_name(good), "{good}");
        }
        for wrong in ["", "*", "2b", "a b", "é", "a\u{7}", &"x".repeat(NAME_LENGTH_MAX + 1)] {
            assert!(!is_name(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_text_gives_no_commands_to_terminals() {
        let harmless = |text: &str| {
            let mut line = Vec::new();
            push_harmless(&mut line, text);
            String::from_utf8(line).expect("text")
        };
        assert_eq!(harmless("plain ~ text"), "plain ~ text");
        assert_eq!(harmless("é\u{1b}[2J\u{9b}x\u{7f}"), "é [2J x ");
    }

    #[test]
    fn words_share_lines_as_far_as_they_fit() {
        let mut lines = Vec::new();
        in_lines(&vec!["0123456789".to_owned(); 8], |line| lines.push(line.to_owned()));
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [76, 10]);
        in_lines(&[], |line| panic!("{line}"));
    }
}

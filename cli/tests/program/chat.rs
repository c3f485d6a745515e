//! The chat, with people on plain sockets, as `nc` would be one.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
};

use socket2::SockRef;

use crate::process::{PATIENCE, Process, Server, command, drivers};

fn chat(arguments: &str) -> Server {
    Server::spawn(command(&format!("serve chat 127.0.0.1:0 {arguments}")))
}

/// Somebody who talks.
struct Person {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Person {
    /// Somebody who has come, and was asked for a name.
    fn stranger(server: &Server) -> Self {
        let stream = server.connect();
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let lines = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut person = Self { stream, lines };
        person.hears("* welcome; say your name, like: /nick ann");
        person
    }

    /// Somebody with a name, in the lobby with so many others.
    fn called(server: &Server, name: &str, others: usize) -> Self {
        let mut person = Self::stranger(server);
        person.says(&format!("/nick {name}"));
        person.hears(&format!("* you are {name}"));
        person.hears(&format!("* you are in lobby with {others} others"));
        person
    }

    fn says(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).expect("the chat reads");
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("the chat answers");
        line.trim_end_matches('\n').to_owned()
    }

    #[track_caller]
    fn hears(&mut self, line: &str) {
        assert_eq!(self.next(), line);
    }

    #[track_caller]
    fn is_let_go(&mut self) {
        assert_eq!(
            self.lines.read(&mut [0]).expect("the end of the stream"),
            0,
            "something came before the end"
        );
    }
}

#[test]
fn people_talk_in_rooms_and_to_each_other() {
    for driver in drivers() {
        let server = chat(&format!("--driver {driver}"));
        let mut ann = Person::called(&server, "ann", 0);
        let mut bob = Person::called(&server, "bob", 1);
        ann.hears("* bob is here");
        ann.says("hello\r");
        bob.hears("ann: hello");
        // Nobody is told what he said himself.
        bob.says("hello, ann");
        ann.hears("bob: hello, ann");

        let mut cid = Person::called(&server, "cid", 2);
        for person in [&mut ann, &mut bob] {
            person.hears("* cid is here");
        }
        bob.says("/join garden");
        bob.hears("* you are in garden with 0 others");
        for person in [&mut ann, &mut cid] {
            person.hears("* bob has gone");
        }
        // Rooms are apart, and a person is reached in any of them.
        ann.says("only for the lobby");
        cid.hears("ann: only for the lobby");
        ann.says("/msg BOB come back");
        bob.hears("ann (to you): come back");
        bob.says("/nick bobby");
        bob.hears("* you are bobby");
        bob.says("/rooms");
        bob.hears("* 2 rooms:");
        bob.hears("* garden (1) lobby (2)");

        cid.says("/join Garden");
        cid.hears("* you are in garden with 1 others");
        ann.hears("* cid has gone");
        bob.hears("* cid is here");
        bob.says("/nick bob");
        bob.hears("* you are bob");
        cid.hears("* bobby is now bob");
        cid.says("/who");
        cid.hears("* 2 in garden:");
        let mut names: Vec<_> = cid.next().split(' ').map(str::to_owned).collect();
        names.sort();
        assert_eq!(names, ["*", "bob", "cid"]);

        cid.says("/leave");
        cid.hears("* you are in no room");
        bob.hears("* cid has gone");
        cid.says("does anybody hear me?");
        cid.hears("* sorry: you are in no room: /join ROOM");
        bob.says("/quit");
        bob.hears("* bye");
        bob.is_let_go();
        // Bob's room has gone with him, and his name is free.
        drop(bob);
        let mut other = Person::called(&server, "BOB", 1);
        other.says("/rooms");
        other.hears("* 1 rooms:");
        other.hears("* lobby (2)");
        drop((ann, cid, other));
        let ended = server.terminate().expect(0);
        assert_eq!(ended.row("sessions accepted"), 4, "{driver}: {ended:#?}");
    }
}

#[test]
fn what_cannot_be_is_told_and_harms_nobody() {
    let server = chat("--message-rate 0");
    let mut ann = Person::called(&server, "ann", 0);
    let mut bob = Person::stranger(&server);
    for (said, answer) in [
        ("/join garden", "* sorry: first say your name: /nick NAME"),
        ("/nick ann", "* sorry: the name ann is taken"),
        ("ANN", "* sorry: the name ANN is taken"),
        ("/nick", "* sorry: a name is a letter, then letters, digits, - and _, up to 20"),
        ("/nick * bob", "* sorry: a name is a letter, then letters, digits, - and _, up to 20"),
        ("two words", "* sorry: a name is a letter, then letters, digits, - and _, up to 20"),
    ] {
        bob.says(said);
        bob.hears(answer);
    }
    // A name without a command is one, too.
    bob.says("bob");
    bob.hears("* you are bob");
    bob.hears("* you are in lobby with 1 others");
    ann.hears("* bob is here");
    for (said, answer) in [
        ("/frobnicate", "* sorry: there is no /frobnicate: /help"),
        ("/\u{1b}[2J", "* sorry: there is no /[2J: /help"),
        ("/msg", "* sorry: nobody here is called "),
        ("/msg zoe hello", "* sorry: nobody here is called zoe"),
        ("/msg ann", "* sorry: say something: /msg NAME TEXT"),
        ("/join two words", "* sorry: a room is named as people are: /join ROOM"),
        (&"x".repeat(1001), "* sorry: a line has 1000 bytes at most"),
    ] {
        bob.says(said);
        bob.hears(answer);
    }
    bob.says("/help");
    for _ in 0..8 {
        assert!(bob.next().starts_with("* "));
    }
    // Nothing reaches another's terminal but text.
    bob.says("\u{1b}[31mred\u{7}");
    ann.hears("bob:  [31mred ");
    bob.says("");
    bob.says("bye");
    ann.hears("bob: bye");
    // A line that does not end ends the session, and only that.
    bob.stream.write_all(&[b'x'; 2000]).expect("the chat reads");
    ann.hears("* bob has gone");
    drop((ann, bob));
    let ended = server.terminate().expect(0);
    assert_eq!(ended.row("closed: frame_too_large"), 1, "{ended:#?}");
}

#[test]
fn who_says_no_name_in_time_is_let_go() {
    for driver in drivers() {
        let server = chat(&format!("--login-timeout 2 --driver {driver}"));
        let mut ann = Person::called(&server, "ann", 0);
        let mut silent = Person::stranger(&server);
        silent.hears("* sorry: you did not say your name in time");
        silent.is_let_go();
        // Ann came before, and is still there.
        ann.says("/who");
        ann.hears("* 1 in lobby:");
        drop((ann, silent));
        let ended = server.terminate().expect(0);
        // Ann may be drained at the end, if the server has not seen yet that she left.
        assert!((1..=2).contains(&ended.row("closed: drained")), "{driver}: {ended:#?}");
    }
}

#[test]
fn who_is_silent_for_too_long_is_let_go() {
    let server = chat("--idle-timeout 2");
    let mut ann = Person::called(&server, "ann", 0);
    ann.is_let_go();
    let ended = server.terminate().expect(0);
    assert_eq!(ended.row("closed: idle_timeout"), 1, "{ended:#?}");
}

#[test]
fn who_does_not_read_is_thrown_out_and_the_others_go_on() {
    /// More than the buffers of both systems hold.
    const LINES_MAX: u64 = 200_000;
    for driver in drivers() {
        let server = chat(&format!("--queue-max 16384 --message-rate 0 --driver {driver}"));
        let mut talker = Person::called(&server, "talker", 0);
        let mut reader = Person::called(&server, "reader", 1);
        let slow = Person::called(&server, "slow", 2);
        talker.hears("* reader is here");
        talker.hears("* slow is here");
        reader.hears("* slow is here");
        SockRef::from(&slow.stream).set_recv_buffer_size(4096).expect("a small buffer");
        let gone = AtomicBool::new(false);
        let text = "x".repeat(900);
        std::thread::scope(|scope| {
            let listening = scope.spawn(|| {
                // Every line, in its order, until the slow one has gone.
                for number in 0..LINES_MAX {
                    let line = reader.next();
                    if line == "* slow has gone" {
                        gone.store(true, Ordering::Relaxed);
                        return number;
                    }
                    assert_eq!(line, format!("talker: {number} {text}"));
                    // One at a time: the reader itself is never slow.
                    reader.says(&format!("/msg talker {number}"));
                }
                panic!("nobody was thrown out");
            });
            for number in 0..LINES_MAX {
                talker.says(&format!("{number} {text}"));
                let answer = talker.next();
                if gone.load(Ordering::Relaxed) || answer == "* slow has gone" {
                    break;
                }
                assert_eq!(answer, format!("reader (to you): {number}"));
            }
            listening.join().expect("the reader is content");
        });
        assert!(gone.load(Ordering::Relaxed));
        reader.says("/who");
        talker.says("are you there?");
        while !reader.next().ends_with("are you there?") {}
        drop((talker, reader, slow));
        let ended = server.terminate().expect(0);
        assert_eq!(ended.row("closed: send_queue_full"), 1, "{driver}: {ended:#?}");
    }
}

/// `/nick` puts somebody into the lobby, unless being told of the name was already too much for the queue.
#[test]
fn who_does_not_read_even_his_name_is_in_no_room() {
    const QUEUE: usize = 4096;
    let server = chat(&format!("--queue-max {QUEUE} --message-rate 0 --login-timeout 1000"));
    let said = ["/help", "/join x", "1"];
    let mut stranger = Person::stranger(&server);
    let [help, join, wrong] = said.map(|line| {
        stranger.says(line);
        let lines = if line == "/help" { 8 } else { 1 };
        (0..lines).map(|_| stranger.next().len() + 1).sum::<usize>()
    });
    let welcome = "* welcome; say your name, like: /nick ann\n".len();
    let mut thrown_out = 0;
    for (joins, wrongs) in (0..12).flat_map(|joins| (0..12).map(move |wrongs| (joins, wrongs))) {
        let fill = joins * join + wrongs * wrong;
        let helps = (QUEUE - fill) / help;
        // The queue has too little left for "* you are a"; or would have, if the welcome were in it still.
        let left = QUEUE - fill - helps * help;
        if left < 12 || (welcome..welcome + 12).contains(&left) {
            let mut person = Person::stranger(&server);
            let lines = [(said[0], helps), (said[1], joins), (said[2], wrongs), ("/nick a", 1), ("/who", 9)];
            let lines: String = lines.map(|(line, times)| format!("{line}\n").repeat(times)).concat();
            person.stream.write_all(lines.as_bytes()).expect("the chat reads");
            // The end, or a reset.
            let _ = person.lines.read_to_end(&mut Vec::new());
            thrown_out += 1;
        }
    }
    assert!(thrown_out > 0);
    stranger.says("/nick b");
    stranger.hears("* you are b");
    stranger.hears("* you are in lobby with 0 others");
    stranger.says("/rooms");
    stranger.hears("* 1 rooms:");
    drop(stranger);
    let ended = server.terminate().expect(0);
    assert_eq!(ended.row("closed: send_queue_full"), thrown_out, "{ended:#?}");
    assert!(!ended.errors.contains("panicked"), "{ended:#?}");
}

#[test]
fn who_says_too_much_at_once_is_slowed_down_and_loses_nothing() {
    for driver in drivers() {
        let server = chat(&format!("--message-rate 60 --driver {driver}"));
        let mut ann = Person::called(&server, "ann", 0);
        let mut bob = Person::called(&server, "bob", 1);
        ann.hears("* bob is here");
        let lines: Vec<_> = (0..150).map(|number| format!("line {number}")).collect();
        ann.says(&lines.join("\n"));
        for line in lines {
            bob.hears(&format!("ann: {line}"));
        }
        drop((ann, bob));
        let ended = server.terminate().expect(0);
        assert!(ended.row("reading paused by rates") > 0, "{driver}: {ended:#?}");
        assert_eq!(ended.row("frames received"), 152, "{driver}: {ended:#?}");
    }
}

#[test]
fn a_script_can_be_a_guest() {
    let server = chat("");
    let mut ann = Person::called(&server, "ann", 0);
    let mut script = Process::start(&format!("connect {} --wait 1000", server.address));
    script.until("* welcome");
    script.write("/nick script\nhello, ann\n").expect("it reads");
    script.until("* you are in lobby with 1 others");
    ann.hears("* script is here");
    ann.hears("script: hello, ann");
    ann.says("hello, script");
    script.until("ann: hello, script");
    script.write("/quit\n").expect("it reads");
    script.end_input();
    let ended = script.end().expect(0);
    assert!(ended.output.ends_with("* bye\n"), "{ended:#?}");
    ann.hears("* script has gone");
}

//! Framings and typed messages through the engine.

use std::sync::mpsc::Sender;

use anyport::{
    CloseReason, Codec, Delimiter, DriverChoice, Fixed, Frame, Handler, KindWidth, LengthPrefix, LengthWidth,
    Limits, Message, MessageError, Refusal, Router, Sent, Session, SizeKind,
};

use crate::support::{Bed, Echo, Event, Events, pattern};

on_every_driver! {
    frames_of_every_codec_come_back_however_they_are_cut
    a_length_above_the_limit_closes_before_anything_follows
    what_a_codec_does_not_carry_is_refused_and_the_session_goes_on
    a_router_finds_the_method_of_each_kind
    what_a_router_does_not_know_ends_the_session_unless_said_otherwise
}

/// Echoes `wire` cut at each of some places, and whole.
fn echoes(driver: DriverChoice, codec: impl Codec, wire: &[u8]) {
    fn handler<C>(_: &C, tell: Sender<Event>) -> Echo<C> {
        Echo::new(tell)
    }
    let (tell, _events) = Events::new();
    let template = codec.clone();
    let bed = Bed::start(driver, 1, codec, Limits::default(), move |_| handler(&template, tell.clone()));
    let mut peer = bed.peer();
    for cut in (0..wire.len()).step_by(1 + wire.len() / 20) {
        peer.send(&wire[..cut]);
        peer.send(&wire[cut..]);
        peer.expect(wire);
    }
    bed.running.stop().unwrap();
}

fn frames_of_every_codec_come_back_however_they_are_cut(driver: DriverChoice) {
    echoes(driver, Delimiter::new("\r\n\r\n", 1 << 10), b"one\r\n\r\ntwo\r\nlines\r\n\r\n\r\n\r\n");
    echoes(driver, Fixed::new(5), b"onetwothreefourfive.");
    let long = pattern(9_000);
    let varint = LengthPrefix::new(LengthWidth::Varint);
    echoes(driver, varint, &[b"\x00\x02hi\xa8\x46", &long[..], b"\x01!"].concat());
    let marked = LengthPrefix::builder(LengthWidth::U16)
        .magic(b"AP")
        .kind(KindWidth::U8)
        .counts_header()
        .trailer_bytes(b";")
        .build();
    echoes(driver, marked, b"AP\x00\x07\x01hi;AP\x00\x05\xff;AP\x00\x0a\x00hello;");
}

fn a_length_above_the_limit_closes_before_anything_follows(driver: DriverChoice) {
    let codec = LengthPrefix::builder(LengthWidth::U64).frame_size_max(1_000).build();
    for (wire, reason) in [
        (&b"\x00\x00\x00\x00\x00\x00\x03\xe1"[..], CloseReason::FrameTooLarge),
        (&[0xff; 8], CloseReason::FrameTooLarge),
    ] {
        let (tell, events) = Events::new();
        let bed = Bed::start(driver, 1, codec.clone(), Limits::default(), move |_| Echo::new(tell.clone()));
        let mut peer = bed.peer();
        peer.send(wire);
        assert_eq!(events.next_close(), reason);
        assert_eq!(peer.rest(), b"");
        bed.running.stop().unwrap();
    }
}

/// Tries to send what its codec does not carry, then what it does.
struct Clumsy {
    tell: Sender<Event>,
}

impl Handler for Clumsy {
    type State = ();
    type Codec = Fixed;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        for body in [&b""[..], b"ab", b"abcd"] {
            assert_eq!(session.send(body), Sent::Refused(Refusal::FrameMalformed));
        }
        assert_eq!(session.send_frame(frame), Sent::Queued);
        self.tell.send(Event::Other("tried")).unwrap();
    }
}

fn what_a_codec_does_not_carry_is_refused_and_the_session_goes_on(driver: DriverChoice) {
    let (tell, events) = Events::new();
    let bed = Bed::start(driver, 1, Fixed::new(3), Limits::default(), move |_| Clumsy { tell: tell.clone() });
    let mut peer = bed.peer();
    for _ in 0..2 {
        peer.send(b"abc");
        peer.expect(b"abc");
        assert_eq!(events.next(), Event::Other("tried"));
    }
    let counters = bed.counters_when(|counters| counters.frames_sent == 2);
    assert_eq!((counters.frames_refused, counters.closed_total()), (6, 0));
    bed.running.stop().unwrap();
}

/// Some bytes in front of a number.
struct Named<'a> {
    name: &'a [u8],
    number: u16,
}

impl Message for Named<'_> {
    const KIND: u16 = 300;
    type Of<'a> = Named<'a>;

    fn decode(body: &[u8]) -> Result<Named<'_>, MessageError> {
        let (name, number) = body.split_last_chunk().ok_or(MessageError("it ends with a number"))?;
        Ok(Named { name, number: u16::from_le_bytes(*number) })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name);
        out.extend_from_slice(&self.number.to_le_bytes());
    }
}

struct Routed {
    routes: &'static Router<Self>,
    calls: u16,
}

impl Routed {
    fn named(&mut self, session: &mut Session<Self>, Named { name, number }: Named) {
        self.calls += 1;
        assert_eq!(session.send_message(&Named { name, number: number + self.calls }), Sent::Queued);
    }

    fn plain(&mut self, session: &mut Session<Self>, frame: Frame) {
        self.calls += 1;
        session.send_kind(frame.kind + 1, frame.body);
    }

    fn others(&mut self, session: &mut Session<Self>, frame: Frame) {
        self.calls += 1;
        session.send_kind(frame.kind, b"unknown");
    }

    fn wrong(&mut self, session: &mut Session<Self>, frame: Frame, error: MessageError) {
        self.calls += 1;
        session.send_kind(frame.kind, error.to_string().as_bytes());
    }
}

impl Handler for Routed {
    type State = ();
    type Codec = SizeKind;

    fn on_frame(&mut self, session: &mut Session<Self>, frame: Frame) {
        self.routes.dispatch(self, session, frame);
    }
}

fn wire(kind: u16, body: &[u8]) -> Vec<u8> {
    let size = u16::try_from(body.len() + 4).unwrap();
    [&size.to_le_bytes(), &kind.to_le_bytes(), body].concat()
}

fn bed(driver: DriverChoice, table: Router<Routed>) -> Bed<Routed> {
    let routes = table.leak();
    Bed::start(driver, 1, SizeKind::default(), Limits::default(), move |_| Routed { routes, calls: 0 })
}

fn a_router_finds_the_method_of_each_kind(driver: DriverChoice) {
    let router = Router::new().on::<Named>(Routed::named).on_kind(0, Routed::plain).on_kind(9, Routed::plain);
    let bed = bed(driver, router.unknown(Routed::others).undecodable(Routed::wrong));
    let mut peer = bed.peer();
    let asked = [
        wire(300, b"ann\x05\x00"),
        wire(0, b"a"),
        wire(9, b""),
        wire(10, b"?"),
        wire(u16::MAX, b""),
        wire(300, b"x"),
        wire(300, b"\x00\x01"),
    ];
    let answers = [
        wire(300, b"ann\x06\x00"),
        wire(1, b"a"),
        wire(10, b""),
        wire(10, b"unknown"),
        wire(u16::MAX, b"unknown"),
        wire(300, b"malformed message: it ends with a number"),
        wire(300, b"\x07\x01"),
    ];
    peer.send(&asked.concat());
    peer.expect(&answers.concat());
    bed.running.stop().unwrap();
}

fn what_a_router_does_not_know_ends_the_session_unless_said_otherwise(driver: DriverChoice) {
    let bed = bed(driver, Router::new().on::<Named>(Routed::named));
    for wrong in [wire(299, b"ann\x05\x00"), wire(300, b"x")] {
        let mut peer = bed.peer();
        peer.send(&wrong);
        assert_eq!(peer.rest(), b"");
    }
    bed.counters_when(|counters| counters.closed_for(CloseReason::MalformedFrame) == 2);
    bed.running.stop().unwrap();
}

//! Messages as a person types and reads them.

use std::fmt::Write;

use anyport::Frame;

use crate::args::CodecName;

/// A message that is to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

/// What a line says, without its end.
pub(crate) fn parse(codec: CodecName, line: &[u8]) -> Result<Message, &'static str> {
    match codec {
        CodecName::Raw => Ok(Message { kind: 0, body: [line, b"\n"].concat() }),
        CodecName::Lines | CodecName::Delimiter | CodecName::LengthPrefix => {
            Ok(Message { kind: 0, body: line.to_vec() })
        }
        CodecName::SizeKind => parse_kind(line),
    }
}

fn parse_kind(line: &[u8]) -> Result<Message, &'static str> {
    let split = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    let (kind, rest) = line.split_at(split);
    let kind = str::from_utf8(kind).ok().and_then(|kind| kind.parse().ok());
    let kind = kind.ok_or("a message begins with its kind, from 0 to 65535: `7 hello`, or `7 #0a0b`")?;
    let text = rest.strip_prefix(b" ").unwrap_or(rest);
    let body = match text.strip_prefix(b"#") {
        None => text.to_vec(),
        Some(digits) => {
            parse_hex(digits).ok_or("after # there are pairs of hexadecimal digits: `7 #0a0b`")?
        }
    };
    Ok(Message { kind, body })
}

fn parse_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let pairs = digits.chunks(2);
    pairs.map(|pair| Some(value(pair[0])? << 4 | value(*pair.get(1)?)?)).collect()
}

/// A frame as it is printed, with its line end; for a terminal, nothing in it can be a command to the terminal.
pub(crate) fn show(codec: CodecName, frame: &Frame, for_terminal: bool) -> Vec<u8> {
    let mut out = match codec {
        CodecName::Raw if !for_terminal => return frame.body.to_vec(),
        CodecName::Raw | CodecName::Lines | CodecName::Delimiter | CodecName::LengthPrefix => {
            frame.body.to_vec()
        }
        CodecName::SizeKind => show_kind(frame),
    };
    if for_terminal {
        out = harmless(&String::from_utf8_lossy(&out)).into_bytes();
    }
    if codec != CodecName::Raw || !out.ends_with(b"\n") {
        out.push(b'\n');
    }
    out
}

/// In the form in which it could be typed.
fn show_kind(frame: &Frame) -> Vec<u8> {
    let readable = |text: &&str| !text.starts_with('#') && !text.chars().any(char::is_control);
    if let Some(text) = str::from_utf8(frame.body).ok().filter(readable) {
        return format!("{} {text}", frame.kind).into_bytes();
    }
    let mut out = format!("{} #", frame.kind);
    for byte in frame.body {
        write!(out, "{byte:02x}").expect("writing to a string");
    }
    out.into_bytes()
}

/// Text without characters that would move the cursor, change colours, or ask the terminal for something.
fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\t' | '\n' => out.push(char),
            // Of a line end; alone it would go back and write over what stands there.
            '\r' if chars.peek() == Some(&'\n') => {}
            char if char.is_control() => out.extend(char.escape_default()),
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Message {
        Message { kind, body: body.to_vec() }
    }

    #[test]
    fn size_kind_is_typed_as_text_or_digits() {
        let parse = |line: &str| parse(CodecName::SizeKind, line.as_bytes());
        assert_eq!(parse("7 hello you"), Ok(message(7, b"hello you")));
        assert_eq!(parse("65535 #0a0B"), Ok(message(65_535, &[10, 11])));
        assert_eq!(parse("7"), Ok(message(7, b"")));
        assert_eq!(parse("7  two spaces"), Ok(message(7, b" two spaces")));
        assert_eq!(parse("7 #"), Ok(message(7, b"")));
        for wrong in ["", "hello", "65536 x", "-1 x", "7 #0", "7 #xy", "7 #0 a", "7#00"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_printed_could_be_typed() {
        for body in [&b"hello"[..], b"", b"#no digits", b"\x00\xff", b"two\nlines", "é".as_bytes()] {
            let text = show(CodecName::SizeKind, &Frame { kind: 9, body }, false);
            let line = text.strip_suffix(b"\n").expect("a line end");
            assert_eq!(parse(CodecName::SizeKind, line), Ok(message(9, body)));
        }
    }

    #[test]
    fn a_peer_gives_no_commands_to_the_terminal() {
        let frame = Frame { kind: 0, body: b"\x1b[2Jhi\x07\t\xc2\x9b" };
        let text = String::from_utf8(show(CodecName::Lines, &frame, true)).expect("text");
        assert_eq!(text, "\\u{1b}[2Jhi\\u{7}\t\\u{9b}\n");
        let frame = Frame { kind: 0, body: b"one\r\ntwo\rthree" };
        let text = String::from_utf8(show(CodecName::Raw, &frame, true)).expect("text");
        assert_eq!(text, "one\ntwo\\rthree\n");
        // A pipe gets what came.
        assert_eq!(show(CodecName::Lines, &frame, false), [frame.body, b"\n"].concat());
        assert_eq!(show(CodecName::Raw, &frame, false), frame.body);
    }
}

//! The lines that are published: a number, a time, and bytes of the publisher's pattern.

use std::{fmt::Write as _, io::Write as _};

use crate::bench::pattern::{Pattern, Start};

/// Bytes before the filler: number, space, time, space.
pub(crate) const FIXED_SIZE: usize = NUMBER_DIGITS + 1 + TIME_DIGITS + 1;
const NUMBER_DIGITS: usize = 8;
/// Nanoseconds in hexadecimal: these suffice for three days.
const TIME_DIGITS: usize = 12;
/// The longest that a chat of ours takes.
pub(crate) const NAME_SIZE_MAX: usize = 20;

/// A line as it arrived, without who said it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Parsed<'a> {
    /// Which line of its publisher, modulo 2^32.
    pub(crate) number: u32,
    /// When it was sent, or was due, in nanoseconds from the start.
    pub(crate) at_ns: u64,
    pub(crate) filler: &'a [u8],
}

/// The name of a publisher or member of this run.
pub(crate) fn name(run: u32, kind: char, number: u64) -> String {
    let mut name = String::new();
    write!(name, "{kind}{run}-{number}").expect("writing to a string");
    name
}

/// Writes a publisher's line.
pub(crate) fn write(
    line: &mut Vec<u8>,
    pattern: &Pattern,
    publisher: u64,
    number: u64,
    at_ns: u64,
    filler: usize,
) {
    line.clear();
    let number_shown = number as u32;
    write!(line, "{number_shown:08x} {at_ns:012x} ").expect("writing to memory");
    line.extend_from_slice(pattern.slice(Start::of(publisher), number * filler as u64, filler));
}

/// Reads what `write` wrote. `None` if it is no such line.
pub(crate) fn parse(line: &[u8]) -> Option<Parsed<'_>> {
    let (fixed, filler) = line.split_at_checked(FIXED_SIZE)?;
    let (number, time) = fixed.split_at(NUMBER_DIGITS + 1);
    let number = hex(number.strip_suffix(b" ")?)?;
    let at_ns = hex(time.strip_suffix(b" ")?)?;
    Some(Parsed { number: u32::try_from(number).ok()?, at_ns, filler })
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

/// Splits a line of the chat into the publisher's number and what it said. `None` if no publisher of this run said it.
pub(crate) fn said_by<'a>(prefix: &str, line: &'a [u8]) -> Option<(u64, &'a [u8])> {
    let rest = line.strip_prefix(prefix.as_bytes())?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = rest.split_at(digits);
    let number = number.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
    Some((number, rest.strip_prefix(b": ")?)).filter(|_| (1..=6).contains(&digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let pattern = Pattern::new(100, true);
        let mut line = Vec::new();
        for (number, at_ns) in [(0, 0), (77, 1_234_567_890), (1 << 33 | 5, 250_000_000_000_000)] {
            write(&mut line, &pattern, 3, number, at_ns, 42);
            assert_eq!(line.len(), FIXED_SIZE + 42);
            let filler = pattern.slice(Start::of(3), number * 42, 42);
            assert_eq!(parse(&line), Some(Parsed { number: number as u32, at_ns, filler }));
        }
        for wrong in
            [&b""[..], b"00000000 000000000000", b"0000000g 000000000000 ", b"00000000x000000000000 "]
        {
            assert_eq!(parse(wrong), None);
        }
    }

    #[test]
    fn names_say_who_it_is() {
        let prefix = name(42, 'p', 7);
        assert_eq!(prefix, "p42-7");
        assert!(name(u32::MAX, 'm', 99_999).len() <= NAME_SIZE_MAX);
        assert_eq!(said_by("p42-", b"p42-7: hello: you"), Some((7, &b"hello: you"[..])));
        for other in [&b"p43-7: x"[..], b"* p42-7 is here", b"p42-: x", b"p42-7 x", b"p42-1234567: x"] {
            assert_eq!(said_by("p42-", other), None);
        }
    }
}

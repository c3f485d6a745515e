//! Numbers of 1 to 10 bytes, seven bits in each, the lowest first (LEB128, as in protobuf).

/// Bytes of the largest 64-bit number.
pub(super) const BYTES_MAX: usize = 10;

/// What stands at the front of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Varint {
    /// A number, and how many bytes it takes.
    Number(u64, usize),
    /// Its last byte is not there yet.
    Cut,
    /// A number that could be written in fewer bytes. Taking it would give one length two forms.
    Overlong,
    /// It has more bytes than it may have, or more than 64 bits.
    TooLong,
}

/// Reads a number of at most `bytes_max` bytes, and never looks beyond them.
#[inline]
pub(super) fn read(bytes: &[u8], bytes_max: usize) -> Varint {
    // One byte is by far the most frequent.
    if let Some(&first @ ..0x80) = bytes.first() {
        return Varint::Number(u64::from(first), 1);
    }
    let mut number = 0_u64;
    for (at, &byte) in bytes.iter().take(bytes_max.min(BYTES_MAX)).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if at == BYTES_MAX - 1 && bits > 1 {
            return Varint::TooLong;
        }
        number |= bits << (7 * at);
        if byte < 0x80 {
            return if byte == 0 { Varint::Overlong } else { Varint::Number(number, at + 1) };
        }
    }
    if bytes.len() < bytes_max { Varint::Cut } else { Varint::TooLong }
}

/// How many bytes `number` takes.
#[inline]
pub(super) fn size(number: u64) -> usize {
    // Bits in use, at least one, by sevens.
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends `number`.
#[inline]
pub(super) fn write(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_take_what_they_say() {
        let powers = (0..64).map(|bit| 1_u64 << bit);
        for number in powers.flat_map(|power| [power - 1, power, power + 1]).chain([u64::MAX]) {
            let mut bytes = Vec::new();
            write(number, &mut bytes);
            assert_eq!(bytes.len(), size(number), "{number}");
            assert_eq!(read(&bytes, BYTES_MAX), Varint::Number(number, bytes.len()));
            assert_eq!(read(&[&bytes[..], b"more"].concat(), BYTES_MAX), Varint::Number(number, bytes.len()));
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut], BYTES_MAX), Varint::Cut, "{number} cut at {cut}");
            }
        }
    }

    #[test]
    fn every_number_has_one_form() {
        assert_eq!(read(&[0x80, 0x00], BYTES_MAX), Varint::Overlong);
        assert_eq!(read(&[0xff, 0x80, 0x00], BYTES_MAX), Varint::Overlong);
        assert_eq!(read(&[0x00], BYTES_MAX), Varint::Number(0, 1));
        // Two bytes: exactly the numbers that one byte cannot hold.
        for number in 0..1_u64 << 14 {
            let two = [number as u8 & 0x7f | 0x80, (number >> 7) as u8];
            let wanted = if number < 0x80 { Varint::Overlong } else { Varint::Number(number, 2) };
            assert_eq!(read(&two, BYTES_MAX), wanted);
        }
    }

    #[test]
    fn what_has_too_many_bytes_is_known_at_the_last_that_is_allowed() {
        assert_eq!(read(&[0xff; 2], 3), Varint::Cut);
        assert_eq!(read(&[0xff; 3], 3), Varint::TooLong);
        assert_eq!(read(&[0xff; 9], BYTES_MAX), Varint::Cut);
        assert_eq!(read(&[0xff; 10], BYTES_MAX), Varint::TooLong);
        let last = |byte| read(&[&[0xff; 9][..], &[byte]].concat(), BYTES_MAX);
        assert_eq!(last(1), Varint::Number(u64::MAX, 10));
        assert_eq!(last(2), Varint::TooLong);
        assert_eq!(last(0), Varint::Overlong);
    }
}

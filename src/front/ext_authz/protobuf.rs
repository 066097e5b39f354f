//! The protobuf wire format: a zero-copy reader and a writer
//! (<https://protobuf.dev/programming-guides/encoding/>).

use keybound_core::{Detail, Refusal};

/// Why bytes are not an unambiguous message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not a protobuf message, or not of the expected type.
    Encoding,
    /// A singular field occurs twice.
    Repeated,
    /// A string is not UTF-8.
    NotUtf8,
    /// There is no HTTP request.
    NoHttpRequest,
    /// The request has no method.
    NoMethod,
    /// Headers must be removed that cannot be named, or too many of them.
    Unwanted,
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        let detail = match malformed {
            Malformed::Encoding => Detail::MessageUnreadable,
            Malformed::Repeated => Detail::FieldRepeated,
            Malformed::NotUtf8 => Detail::TextNotUtf8,
            Malformed::NoHttpRequest => Detail::HttpRequestMissing,
            Malformed::NoMethod => Detail::MethodMissing,
            Malformed::Unwanted => Detail::HeaderUnremovable,
        };
        detail.into()
    }
}

/// The fields of a message in wire order. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// A string, bytes or a message, not parsed.
    Bytes(&'a [u8]),
    /// A number.
    Number,
}

impl<'a> Fields<'a> {
    /// The fields of `message`.
    pub fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// Groups are refused: proto3 does not have them, and skipping them is the only operation that
    /// would need recursion.
    fn field(&mut self) -> Result<(u32, Payload<'a>), Malformed> {
        let key = u32::try_from(self.varint()?).or(Err(Malformed::Encoding))?;
        let payload = match key & 0b111 {
            0 => self.varint().map(|_| Payload::Number)?,
            1 => self.take(8).map(|_| Payload::Number)?,
            2 => {
                let length = usize::try_from(self.varint()?).or(Err(Malformed::Encoding))?;
                Payload::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Payload::Number)?,
            _ => return Err(Malformed::Encoding),
        };
        match key >> 3 {
            0 => Err(Malformed::Encoding),
            number => Ok((number, payload)),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Encoding)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Fast path: almost all varints are keys or lengths of one or two bytes.
    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        match *self.rest {
            [low @ 0..0x80, ref rest @ ..] => {
                self.rest = rest;
                Ok(low.into())
            }
            [low, high @ 0..0x80, ref rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(low & 0x7f) | u64::from(high) << 7)
            }
            _ => self.long_varint(),
        }
    }

    #[cold]
    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed::Encoding)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds only one bit.
            if (bits << shift) >> shift != bits {
                return Err(Malformed::Encoding);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Encoding)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Payload<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Payload<'a> {
    /// The bytes of a string, bytes or message field.
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number => Err(Malformed::Encoding),
        }
    }

    /// Stores the bytes of a singular field. Protobuf would keep the last of several; no honest
    /// sender repeats one.
    pub fn once(self, place: &mut Option<&'a [u8]>) -> Result<(), Malformed> {
        match place.replace(self.bytes()?) {
            None => Ok(()),
            Some(_) => Err(Malformed::Repeated),
        }
    }
}

/// Appends the fields of a message to a buffer.
///
/// As in proto3, zero numbers and empty strings are omitted, and messages are not.
#[derive(Debug)]
pub struct Writer<'a>(&'a mut Vec<u8>);

impl<'a> Writer<'a> {
    /// A writer that appends to `bytes`.
    pub fn to(bytes: &'a mut Vec<u8>) -> Self {
        Self(bytes)
    }

    /// A non-negative number.
    pub fn number(&mut self, field: u32, number: u32) {
        if number != 0 {
            self.key(field, VARINT);
            self.varint(number.into());
        }
    }

    /// A string.
    pub fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.text_even_if_empty(field, text);
        }
    }

    /// A string in a `oneof`, written even if empty, since its presence has a meaning.
    pub fn text_even_if_empty(&mut self, field: u32, text: &str) {
        self.key(field, LENGTH_DELIMITED);
        self.length(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    /// A message, whose fields `write` appends.
    pub fn message(&mut self, field: u32, write: impl FnOnce(&mut Writer<'_>)) {
        self.key(field, LENGTH_DELIMITED);
        let place = self.0.len();
        // Reserve one byte for the length, which is enough for most messages.
        self.0.push(0);
        let start = self.0.len();
        write(&mut Writer(self.0));
        let length = self.0.len().saturating_sub(start);
        let bytes = varint_bytes(length);
        if 1 < bytes {
            self.0.resize(self.0.len().saturating_add(bytes).saturating_sub(1), 0);
            self.0.copy_within(start..start.saturating_add(length), place.saturating_add(bytes));
        }
        let mut value = length;
        for byte in self.0.iter_mut().skip(place).take(bytes) {
            let [low, ..] = value.to_le_bytes();
            value >>= 7;
            *byte = if value == 0 { low } else { low | 0x80 };
        }
    }

    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint(u64::from(field << 3 | wire_type));
    }

    fn length(&mut self, length: usize) {
        self.varint(u64::try_from(length).unwrap_or(u64::MAX));
    }

    fn varint(&mut self, mut value: u64) {
        while let rest @ 1.. = value >> 7 {
            let [low, ..] = value.to_le_bytes();
            self.0.push(low | 0x80);
            value = rest;
        }
        let [low, ..] = value.to_le_bytes();
        self.0.push(low);
    }
}

/// The encoded length of a varint, in bytes.
fn varint_bytes(value: usize) -> usize {
    let bits = usize::BITS.saturating_sub(value.leading_zeros());
    usize::try_from(bits.div_ceil(7).max(1)).unwrap_or(1)
}

const VARINT: u32 = 0;
const LENGTH_DELIMITED: u32 = 2;

/// The key and value of an entry in a map of strings.
pub(super) fn entry(message: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut key, mut value) = (None, None);
    for field in Fields::of(message) {
        match field? {
            (1, it) => it.once(&mut key)?,
            (2, it) => it.once(&mut value)?,
            _ => (),
        }
    }
    Ok((key.unwrap_or_default(), value.unwrap_or_default()))
}

/// The only field of `message` with this number.
pub(super) fn only(number: u32, message: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let mut found = None;
    for field in Fields::of(message) {
        match field? {
            (it, payload) if it == number => payload.once(&mut found)?,
            _ => (),
        }
    }
    Ok(found)
}

/// Text, which must be UTF-8.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(bytes).or(Err(Malformed::NotUtf8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_written_reads_as_it_was_meant() {
        for length in [0, 1, 126, 127, 128, 129, 16_383, 16_384, 70_000] {
            let text = "x".repeat(length);
            let mut message = vec![];
            let mut writer = Writer::to(&mut message);
            writer.message(1, |it| it.text_even_if_empty(2, &text));
            writer.number(3, 0);
            writer.number(4, 300);
            writer.text(5, "");
            writer.message(6, |_| ());
            let fields: Vec<_> = Fields::of(&message).collect::<Result<_, _>>().unwrap();
            let [(1, Payload::Bytes(inner)), (4, Payload::Number), (6, Payload::Bytes([]))] =
                *fields
            else {
                panic!("{length}: {fields:?}")
            };
            let inner: Vec<_> = Fields::of(inner).collect::<Result<_, _>>().unwrap();
            assert_eq!(inner, [(2, Payload::Bytes(text.as_bytes()))]);
        }
        let mut message = vec![];
        Writer::to(&mut message).number(1, 300);
        assert_eq!(message, [0x08, 0xac, 0x02]);
    }

    #[track_caller]
    fn check(message: &[u8], expected: Result<&[(u32, Payload<'_>)], Malformed>) {
        let found: Result<Vec<_>, _> = Fields::of(message).collect();
        assert_eq!(found.as_deref().map_err(|it| *it), expected);
    }

    #[test]
    fn fields_of_every_wire_type_are_walked_over() {
        check(b"", Ok(&[]));
        check(b"\x08\x96\x01", Ok(&[(1, Payload::Number)]));
        check(b"\x09\0\0\0\0\0\0\0\0", Ok(&[(1, Payload::Number)]));
        check(b"\x0d\0\0\0\0", Ok(&[(1, Payload::Number)]));
        check(b"\x0a\x02hi\x12\0", Ok(&[(1, Payload::Bytes(b"hi")), (2, Payload::Bytes(b""))]));
    }

    #[test]
    fn a_field_that_goes_beyond_the_end_is_refused() {
        for message in [&b"\x08"[..], b"\x08\x80", b"\x09\0\0\0\0\0\0\0", b"\x0d\0\0\0", b"\x0a"] {
            check(message, Err(Malformed::Encoding));
        }
        check(b"\x0a\x03hi", Err(Malformed::Encoding));
        check(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01hi", Err(Malformed::Encoding));
    }

    #[test]
    fn a_varint_has_64_bits_in_ten_bytes_at_most() {
        check(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Ok(&[(1, Payload::Number)]));
        check(b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", Ok(&[(1, Payload::Number)]));
        check(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", Err(Malformed::Encoding));
        check(b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", Err(Malformed::Encoding));
    }

    #[test]
    fn a_field_number_is_between_1_and_29_bits() {
        check(b"\x02\x00", Err(Malformed::Encoding));
        check(b"\xfa\xff\xff\xff\x0f\x00", Ok(&[((1 << 29) - 1, Payload::Bytes(b""))]));
        check(b"\xfa\xff\xff\xff\x1f\x00", Err(Malformed::Encoding));
    }

    #[test]
    fn groups_and_unassigned_wire_types_are_refused() {
        for wire_type in [3, 4, 6, 7] {
            check(&[0x08 | wire_type, 0x0c], Err(Malformed::Encoding));
        }
    }

    #[test]
    fn a_field_that_may_be_there_once_is_refused_the_second_time() {
        let mut place = None;
        assert_eq!(Payload::Number.once(&mut place), Err(Malformed::Encoding));
        assert_eq!(Payload::Bytes(b"").once(&mut place), Ok(()));
        assert_eq!(Payload::Bytes(b"").once(&mut place), Err(Malformed::Repeated));
    }
}

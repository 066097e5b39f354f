//! Knows how a protobuf message is laid out in bytes, and walks over one without copying
//! (<https://protobuf.dev/programming-guides/encoding/>).

/// The bytes are not a protobuf message, or not of the expected type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The fields of a message in the order in which they were sent. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// A string, bytes or a message: not looked into.
    Bytes(&'a [u8]),
    /// A number.
    Number,
}

impl<'a> Fields<'a> {
    /// The fields of `message`.
    pub fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// Groups are refused: they were never part of proto3, and skipping one is the only step
    /// that would have to recurse.
    fn field(&mut self) -> Result<(u32, Payload<'a>), Malformed> {
        let key = u32::try_from(self.varint()?).or(Err(Malformed))?;
        let payload = match key & 0b111 {
            0 => self.varint().map(|_| Payload::Number)?,
            1 => self.take(8).map(|_| Payload::Number)?,
            2 => {
                let length = usize::try_from(self.varint()?).or(Err(Malformed))?;
                Payload::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Payload::Number)?,
            _ => return Err(Malformed),
        };
        match key >> 3 {
            0 => Err(Malformed),
            number => Ok((number, payload)),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed)?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if (bits << shift) >> shift != bits {
                return Err(Malformed);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
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
            Self::Number => Err(Malformed),
        }
    }

    /// Puts the bytes of a field that may be there once into its place. Protobuf would take the
    /// last of several; no honest sender has several.
    pub fn once(self, place: &mut Option<&'a [u8]>) -> Result<(), Malformed> {
        match place.replace(self.bytes()?) {
            None => Ok(()),
            Some(_) => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            check(message, Err(Malformed));
        }
        check(b"\x0a\x03hi", Err(Malformed));
        check(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01hi", Err(Malformed));
    }

    #[test]
    fn a_varint_has_64_bits_in_ten_bytes_at_most() {
        check(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Ok(&[(1, Payload::Number)]));
        check(b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", Ok(&[(1, Payload::Number)]));
        check(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", Err(Malformed));
        check(b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", Err(Malformed));
    }

    #[test]
    fn a_field_number_is_between_1_and_29_bits() {
        check(b"\x02\x00", Err(Malformed));
        check(b"\xfa\xff\xff\xff\x0f\x00", Ok(&[((1 << 29) - 1, Payload::Bytes(b""))]));
        check(b"\xfa\xff\xff\xff\x1f\x00", Err(Malformed));
    }

    #[test]
    fn groups_and_unassigned_wire_types_are_refused() {
        for wire_type in [3, 4, 6, 7] {
            check(&[0x08 | wire_type, 0x0c], Err(Malformed));
        }
    }

    #[test]
    fn a_field_that_may_be_there_once_is_refused_the_second_time() {
        let mut place = None;
        assert_eq!(Payload::Number.once(&mut place), Err(Malformed));
        assert_eq!(Payload::Bytes(b"").once(&mut place), Ok(()));
        assert_eq!(Payload::Bytes(b"").once(&mut place), Err(Malformed));
    }
}

//! NumPy's `.npy`, versions 1.0, 2.0 and 3.0.
//!
//! ```text
//! \x93 N U M P Y | major u8 | minor u8 | length u16 (1.0) or u32 (2.0, 3.0), little-endian
//! length bytes:  {'descr': '<f4', 'fortran_order': False, 'shape': (300000, 128), }  spaces \n
//! the components, C order
//! ```
//! The header is a Python literal. The parser reads exactly the literals that such a header may hold,
//! and names what it finds instead; it allocates nothing but error messages.

use super::{Element, Fault, Layout};

pub(super) const MAGIC: [u8; 6] = *b"\x93NUMPY";

/// The longest header that is read. NumPy itself stops at 10,000 bytes.
const HEADER_MAX: u64 = 1 << 16;

/// The first bytes of a file, up to the header's length.
pub(super) const PREAMBLE: usize = 12;

/// Where the header lies, from the first bytes of the file (all of it if it is shorter than
/// [`PREAMBLE`]): its first byte, and the byte after its last, at which the components begin.
pub(super) fn header_span(preamble: &[u8]) -> Result<(u64, u64), Fault> {
    let rest = preamble
        .strip_prefix(&MAGIC)
        .ok_or_else(|| Fault::malformed(0, "does not begin like a .npy file (\\x93NUMPY)"))?;
    let (start, length) = match *rest {
        [1, _, a, b, ..] => (10, u64::from(u16::from_le_bytes([a, b]))),
        [2 | 3, _, a, b, c, d, ..] => (12, u64::from(u32::from_le_bytes([a, b, c, d]))),
        [0..=3, ..] | [] => return Err(Fault::malformed(6, "the header is cut off")),
        [major, ..] => {
            return Err(Fault::unsupported(6, format!("version {major} of .npy; 1 to 3 are read")));
        }
    };
    if length > HEADER_MAX {
        return Err(Fault::malformed(
            8,
            format!("a header of {length} bytes; at most {HEADER_MAX} are read"),
        ));
    }
    Ok((start, start + length))
}

/// The layout that `header` describes, its components beginning at `start` of a file of `file_bytes`.
pub(super) fn layout(header: &[u8], span: (u64, u64), file_bytes: u64) -> Result<Layout, Fault> {
    let mut parser = Parser { rest: header, offset: span.0 };
    let dict = parser.dict()?;
    let element = element(dict.descr.ok_or_else(|| parser.missing("descr"))?)?;
    if dict.fortran_order.ok_or_else(|| parser.missing("fortran_order"))? {
        return Err(Fault::unsupported(
            span.0,
            "the array is in Fortran order; save numpy.ascontiguousarray(array) instead",
        ));
    }
    let shape = dict.shape.ok_or_else(|| parser.missing("shape"))?;
    let (rows, dim, flat) = match shape {
        Shape { dims: 1, sizes: [rows, _] } => (rows, 1, true),
        Shape { dims: 2, sizes: [rows, dim] } => (rows, dim, false),
        Shape { dims, .. } => {
            return Err(Fault::unsupported(
                span.0,
                format!("an array of {dims} dimensions; 1 or 2 are read"),
            ));
        }
    };
    let dim = usize::try_from(dim).unwrap_or(usize::MAX);
    Layout { element, rows, dim, flat, start: span.1, prefix: 0 }.checked(file_bytes)
}

/// The element of a type string such as `<f4`, which lies at `descr.1`.
fn element(descr: (&[u8], u64)) -> Result<Element, Fault> {
    let (text, offset) = descr;
    let name = String::from_utf8_lossy(text);
    let refuse = |what: String| Err(Fault::unsupported(offset, what));
    match text {
        b"<f4" => Ok(Element::F32),
        b"<f2" => Ok(Element::F16),
        [_, b'u', b'1'] => Ok(Element::U8),
        [_, b'i', b'1'] => Ok(Element::I8),
        b"<i4" => Ok(Element::I32),
        b"<u4" => Ok(Element::U32),
        b"<i8" => Ok(Element::I64),
        b"<u8" => Ok(Element::U64),
        [b'>', kind @ ..] => refuse(format!(
            "big-endian numbers (`{name}`); save array.astype('<{}') instead",
            String::from_utf8_lossy(kind)
        )),
        b"<f8" => refuse("float64 (`<f8`); save array.astype('float32') instead".into()),
        _ => refuse(format!("elements of type `{name}`; read are <f4 <f2 |u1 |i1 <i4 <u4 <i8 <u8")),
    }
}

/// The header of an array whose number of rows is not known yet: always as long, whatever `rows` is.
pub(super) fn header(descr: &str, rows: u64, dim: Option<usize>) -> Vec<u8> {
    let shape = match dim {
        None => format!("({rows},)"),
        Some(dim) => format!("({rows}, {dim})"),
    };
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend((HEADER_BYTES - 10).to_le_bytes());
    bytes.extend(dict.as_bytes());
    // The longest dictionary is 97 bytes (u64::MAX rows of u64::MAX), so there is always room.
    bytes.resize(usize::from(HEADER_BYTES) - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// Bytes of a header that we write: a multiple of 64, as NumPy wants it.
pub(super) const HEADER_BYTES: u16 = 128;

/// What the header's dictionary said. `descr` carries its own offset.
#[derive(Default)]
struct Dict<'a> {
    descr: Option<(&'a [u8], u64)>,
    fortran_order: Option<bool>,
    shape: Option<Shape>,
}

/// The number of dimensions, and the first two sizes.
#[derive(Clone, Copy)]
struct Shape {
    dims: usize,
    sizes: [u64; 2],
}

struct Parser<'a> {
    rest: &'a [u8],
    offset: u64,
}

impl<'a> Parser<'a> {
    fn dict(&mut self) -> Result<Dict<'a>, Fault> {
        let mut dict = Dict::default();
        self.expect(b'{')?;
        while !self.accept(b'}') {
            let (key, offset) = self.string()?;
            self.expect(b':')?;
            let repeated = match key {
                b"descr" => dict.descr.replace(self.descr()?).is_some(),
                b"fortran_order" => dict.fortran_order.replace(self.boolean()?).is_some(),
                b"shape" => dict.shape.replace(self.shape()?).is_some(),
                _ => return Err(Fault::malformed(offset, format!("an unknown key {}", text(key)))),
            };
            if repeated {
                return Err(Fault::malformed(offset, format!("the key {} twice", text(key))));
            }
            if !self.accept(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        self.skip_space();
        match self.rest.first() {
            None => Ok(dict),
            Some(_) => Err(self.unexpected("the end of the header")),
        }
    }

    fn descr(&mut self) -> Result<(&'a [u8], u64), Fault> {
        self.skip_space();
        if self.rest.starts_with(b"[") {
            return Err(Fault::unsupported(self.offset, "a structured array; one plain type is read"));
        }
        self.string()
    }

    fn shape(&mut self) -> Result<Shape, Fault> {
        let mut shape = Shape { dims: 0, sizes: [0; 2] };
        self.expect(b'(')?;
        while !self.accept(b')') {
            let size = self.integer()?;
            if let Some(slot) = shape.sizes.get_mut(shape.dims) {
                *slot = size;
            }
            shape.dims += 1;
            if !self.accept(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(shape)
    }

    /// A string in single or double quotes, without escapes: no key and no type string has any.
    fn string(&mut self) -> Result<(&'a [u8], u64), Fault> {
        self.skip_space();
        let offset = self.offset;
        let quote = match self.rest.first() {
            Some(&quote @ (b'\'' | b'"')) => quote,
            _ => return Err(self.unexpected("a string")),
        };
        let body = self.rest.get(1..).unwrap_or_default();
        let length = body
            .iter()
            .position(|&byte| byte == quote)
            .ok_or_else(|| Fault::malformed(offset, "a string without an end"))?;
        self.advance(length + 2);
        Ok((body.get(..length).unwrap_or_default(), offset))
    }

    fn boolean(&mut self) -> Result<bool, Fault> {
        self.skip_space();
        for (word, value) in [("True", true), ("False", false)] {
            if self.rest.starts_with(word.as_bytes()) {
                self.advance(word.len());
                return Ok(value);
            }
        }
        Err(self.unexpected("True or False"))
    }

    fn integer(&mut self) -> Result<u64, Fault> {
        self.skip_space();
        if self.rest.starts_with(b"-") {
            return Err(Fault::malformed(self.offset, "a negative size"));
        }
        let length = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let digits = self.rest.get(..length).unwrap_or_default();
        if digits.is_empty() {
            return Err(self.unexpected("a number"));
        }
        let value = digits
            .iter()
            .try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')));
        let value = value.ok_or_else(|| Fault::malformed(self.offset, "a size beyond 64 bits"))?;
        self.advance(length);
        if self.rest.starts_with(b"L") {
            self.advance(1); // Python 2 wrote its long integers so.
        }
        Ok(value)
    }

    fn accept(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.rest.first() == Some(&byte);
        if found {
            self.advance(1);
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.accept(byte) { Ok(()) } else { Err(self.unexpected(&format!("`{}`", byte as char))) }
    }

    fn skip_space(&mut self) {
        self.advance(self.rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count());
    }

    fn advance(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
        self.offset += bytes as u64;
    }

    fn unexpected(&self, wanted: &str) -> Fault {
        let found = match self.rest.first() {
            None => "the header ends".to_string(),
            Some(&byte) => format!("found {}", text(&[byte])),
        };
        Fault::malformed(self.offset, format!("{wanted} expected in the header, but {found}"))
    }

    fn missing(&self, key: &str) -> Fault {
        Fault::malformed(self.offset, format!("the header has no `{key}`"))
    }
}

/// Bytes of the header as they may stand in a message: short, and without control characters.
fn text(bytes: &[u8]) -> String {
    format!(
        "`{}`",
        bytes
            .iter()
            .take(40)
            .copied()
            .flat_map(std::ascii::escape_default)
            .map(char::from)
            .collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout of a file with this dictionary and `data` bytes after its header.
    fn read(dict: &str, data: u64) -> Result<Layout, Fault> {
        let end = 10 + dict.len() as u64;
        layout(dict.as_bytes(), (10, end), end + data)
    }

    fn shape(text: &str) -> Result<Layout, Fault> {
        read(&format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {text}, }}"), 6)
    }

    fn descr(text: &str) -> Result<Layout, Fault> {
        read(&format!("{{'descr': {text}, 'fortran_order': False, 'shape': (1, 8), }}"), 32)
    }

    #[test]
    fn what_numpy_writes_is_read() {
        let layout = shape("(2, 3)").unwrap();
        assert_eq!((layout.rows, layout.dim, layout.flat, layout.element), (2, 3, false, Element::U8));
        let flat = shape("(6,)").unwrap();
        assert_eq!((flat.rows, flat.dim, flat.flat), (6, 1, true));
        assert_eq!(descr("'<f4'").unwrap().element, Element::F32);
        assert_eq!(descr("\"<i4\"").unwrap().element, Element::I32);
        // Any order of keys, no last comma, any white space, the long integers of Python 2.
        let odd = "  {\"shape\":(2L,3L),\n'fortran_order' :False , 'descr':'|i1'}\t \n";
        assert_eq!(read(odd, 6).unwrap().element, Element::I8);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for text in ["(-2, 3)", "(2, -3)", "(18446744073709551616, 1)", "(6, 0)", "(1, 1048577)"] {
            assert!(matches!(shape(text), Err(Fault::Malformed { .. })), "{text}");
        }
        // Products and sums that overflow 64 bits.
        for text in ["(18446744073709551615, 2)", "(18446744073709551615, 1)"] {
            assert!(matches!(shape(text), Err(Fault::Malformed { .. })), "{text}");
        }
        assert!(matches!(shape("(9223372036854775807,)"), Err(Fault::Length { found: 90.., .. })));
        for text in ["()", "(1, 2, 3)", "(1, 1, 1, 1, 6)"] {
            assert!(matches!(shape(text), Err(Fault::Unsupported { .. })), "{text}");
        }
    }

    #[test]
    fn types_that_are_not_read_say_what_to_do() {
        for (text, hint) in [
            ("'>f4'", "astype('<f4')"),
            ("'<f8'", "astype('float32')"),
            ("'|O'", "`|O`"),
            ("[('a', '<f4')]", "structured"),
        ] {
            match descr(text) {
                Err(Fault::Unsupported { what, .. }) => assert!(what.contains(hint), "{what}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let fortran = read("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }", 6);
        assert!(
            matches!(fortran, Err(Fault::Unsupported { what, .. }) if what.contains("ascontiguousarray"))
        );
    }

    #[test]
    fn broken_headers_are_refused() {
        for dict in [
            "",
            "{",
            "{}",
            "{'descr'",
            "{'descr: ",
            "{'descr': '<f4', 'fortran_order': False}",
            "{'descr': '<f4', 'shape': (1, 1), 'fortran_order': 0}",
            "{'descr': '<f4', 'shape': (1 1), 'fortran_order': False}",
            "{'descr': '<f4', 'shape': (,), 'fortran_order': False}",
            "{'descr': '<f4', 'descr': '<f4', 'shape': (1, 1), 'fortran_order': False}",
            "{'descr': '<f4', 'shape': (1, 1), 'fortran_order': False, 'more': 1}",
            "{'descr': '<f4', 'shape': (1, 1), 'fortran_order': False} more",
            "\u{0}\u{1}",
        ] {
            assert!(matches!(read(dict, 4), Err(Fault::Malformed { .. })), "{dict}");
        }
    }

    #[test]
    fn the_preamble_says_where_the_header_lies() {
        assert_eq!(header_span(b"\x93NUMPY\x01\x00\x76\x00{'"), Ok((10, 128)));
        assert_eq!(header_span(b"\x93NUMPY\x02\x00\x74\x00\x00\x00"), Ok((12, 128)));
        assert_eq!(header_span(b"\x93NUMPY\x03\x00\x74\x00\x00\x00"), Ok((12, 128)));
        assert!(matches!(header_span(b"\x93NUMPY\x04\x00\x74\x00\x00\x00"), Err(Fault::Unsupported { .. })));
        for bytes in [
            &b""[..],
            b"\x93NUMP",
            b"NUMPY\x93",
            b"\x93NUMPY",
            b"\x93NUMPY\x01\x00\x76",
            b"\x93NUMPY\x02\x00\x74\x00\x00",
        ] {
            assert!(matches!(header_span(bytes), Err(Fault::Malformed { .. })), "{bytes:?}");
        }
        // A header of 4 GiB.
        let huge = header_span(b"\x93NUMPY\x02\x00\xff\xff\xff\xff");
        assert!(matches!(huge, Err(Fault::Malformed { offset: 8, .. })));
    }

    #[test]
    fn headers_that_we_write_are_read_back() {
        for (rows, dim) in [(0, Some(1)), (7, None), (u64::MAX, None), (3, Some(usize::MAX))] {
            let bytes = header("<f4", rows, dim);
            assert_eq!(bytes.len(), 128);
            assert_eq!(bytes.last(), Some(&b'\n'));
            assert_eq!(header_span(&bytes), Ok((10, 128)));
        }
        let bytes = header("<u8", 3, Some(5));
        let read = layout(&bytes[10..], (10, 128), 128 + 120).unwrap();
        assert_eq!((read.rows, read.dim, read.element, read.start), (3, 5, Element::U64, 128));
    }
}

//! Reading a denylist: JSON Lines line by line, or YAML of at most 1 MiB.

use super::entry::Entry;
use super::table::{Filling, Table};
use keybound_core::jose::json;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Reads the entries under `revoked` of a YAML document, each with its line.
///
/// The errors are all that is wrong with it, each with its line.
pub type YamlReader = fn(&[u8]) -> Result<Vec<(u32, Entry)>, Vec<(Option<usize>, String)>>;

/// A denylist that cannot be read: why, with the file and the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadDenylist {
    path: PathBuf,
    line: Option<usize>,
    message: String,
    /// Whether the same file may be read without an error later.
    pub(super) is_passing: bool,
}

impl fmt::Display for BadDenylist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}, line {line}: {}", self.path.display(), self.message),
            None => write!(f, "{}: {}", self.path.display(), self.message),
        }
    }
}

/// The longest line. What identifies a token is some hundred bytes long.
const LONGEST_LINE: u64 = 64 * 1024;

/// The longest YAML document: one that is longer is slow to read, and takes many times its length.
const LONGEST_YAML: u64 = 1024 * 1024;

/// The file at `path`, open.
pub(super) fn open(path: &Path) -> Result<File, BadDenylist> {
    // Opening a pipe would block until it has a writer.
    if !path.metadata().map_err(|it| unreadable(&it).of(path))?.is_file() {
        return Err(Fault::of_all("is not a regular file").of(path));
    }
    File::open(path).map_err(|it| unreadable(&it).of(path))
}

/// The entries in `file`, which was found at `path`. This may take seconds.
pub(super) fn load(path: &Path, file: &File, yaml: YamlReader) -> Result<Table, BadDenylist> {
    read(BufReader::with_capacity(1 << 16, file), yaml).map_err(|it| it.of(path))
}

/// What is wrong, and on which line.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    line: Option<usize>,
    message: String,
    is_passing: bool,
}

impl Fault {
    fn at(line: Option<usize>, message: impl Into<String>) -> Self {
        Self { line, message: message.into(), is_passing: false }
    }

    fn of_all(message: impl Into<String>) -> Self {
        Self::at(None, message)
    }

    fn of(self, path: &Path) -> BadDenylist {
        let Self { line, message, is_passing } = self;
        BadDenylist { path: path.to_owned(), line, message, is_passing }
    }
}

fn read(mut file: impl BufRead, yaml: YamlReader) -> Result<Table, Fault> {
    let table = Filling::new().map_err(|it| Fault::of_all(it.to_string()))?;
    if file.fill_buf().map_err(|it| unreadable(&it))?.starts_with(BYTE_ORDER_MARK) {
        file.consume(BYTE_ORDER_MARK.len());
    }
    let start = file.fill_buf().map_err(|it| unreadable(&it))?;
    if is_json_lines(start) { lines(file, table) } else { document(file, yaml, table) }
}

/// A file that is gone or that we may not read is another once that changes, and is read again then. Any other
/// error is the system's.
fn unreadable(error: &io::Error) -> Fault {
    let of_the_file = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
    let is_passing = !of_the_file.contains(&error.kind());
    Fault { is_passing, ..Fault::of_all(format!("cannot be read: {error}")) }
}

/// Whether a file that starts so holds an entry on each line: the first thing in it is an object without
/// `revoked`. In a document of YAML or JSON that comes first.
fn is_json_lines(start: &[u8]) -> bool {
    let Some((b'{', rest)) = start.trim_ascii_start().split_first() else { return false };
    let line = rest.split(|it| *it == b'\n').next().unwrap_or_default().trim_ascii();
    let name = line.strip_prefix(b"\"").or_else(|| line.strip_prefix(b"'")).unwrap_or(line);
    !line.is_empty() && !name.starts_with(b"revoked")
}

fn lines(mut file: impl BufRead, mut table: Filling) -> Result<Table, Fault> {
    let mut line = Vec::with_capacity(256);
    for number in 1_u32.. {
        let fault = |message: String| Fault::at(usize::try_from(number).ok(), message);
        line.clear();
        let most = LONGEST_LINE.saturating_add(1);
        let mut rest = file.by_ref().take(most);
        let read = rest.read_until(b'\n', &mut line).map_err(|it| unreadable(&it))?;
        if read == 0 {
            return Ok(table.finish());
        }
        if rest.limit() == 0 {
            return Err(fault(format!("is longer than {LONGEST_LINE} bytes")));
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let entry = json::object_of::<Entry>(text).map_err(|it| fault(without_place(&it)))?;
        if let Some(wrong) = entry.fault() {
            return Err(fault(wrong));
        }
        table.add(&entry, number);
    }
    Err(Fault::of_all(format!("has more than {} lines", u32::MAX)))
}

/// The message, whose place is that within the line.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let told = text.rsplit_once(" at line ").map_or(&*text, |(told, _)| told);
    if error.is_data() { told.to_owned() } else { format!("is not an entry in JSON: {told}") }
}

fn document(file: impl BufRead, yaml: YamlReader, mut table: Filling) -> Result<Table, Fault> {
    let mut text = vec![];
    let mut rest = file.take(LONGEST_YAML.saturating_add(1));
    rest.read_to_end(&mut text).map_err(|it| unreadable(&it))?;
    if rest.limit() == 0 {
        let message = format!("is longer than {LONGEST_YAML} bytes of YAML: write {JSON_LINES}");
        return Err(Fault::of_all(message));
    }
    if text.trim_ascii().is_empty() {
        // A full disk leaves such a file, and nobody means to revoke nothing by it.
        return Err(Fault::of_all("is empty: write `revoked: []` where nothing is revoked"));
    }
    let entries = yaml(&text).map_err(|faults| {
        let first = faults.into_iter().next();
        first.map_or_else(|| Fault::of_all("is not a denylist"), |(line, it)| Fault::at(line, it))
    })?;
    for (line, entry) in entries {
        if let Some(wrong) = entry.fault() {
            return Err(Fault::at(usize::try_from(line).ok(), wrong));
        }
        table.add(&entry, line);
    }
    Ok(table.finish())
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

const JSON_LINES: &str = "JSON Lines, with an entry on each line";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::revocation::samples::token;
    use serde_json::json;

    /// In place of that of the configuration.
    const YAML: YamlReader = |text| {
        let text = str::from_utf8(text).unwrap();
        if text.contains("wrong") {
            return Err(vec![(Some(2), "revoked[0]: wrong".to_owned())]);
        }
        let entry = serde_json::from_value(json!({"jti": "of-yaml"})).unwrap();
        Ok(vec![(3, entry)])
    };

    fn read(text: &[u8]) -> Result<Table, Fault> {
        // The file comes in pieces.
        super::read(BufReader::with_capacity(16, text), YAML)
    }

    fn line_of(list: &Table, jti: &str) -> Option<u32> {
        list.find(token(&json!({"jti": jti})).revocable.as_ref().unwrap()).map(|it| it.line)
    }

    #[test]
    fn each_line_of_json_lines_is_an_entry() {
        for text in [
            "{\"jti\":\"a\"}\n\n  {\"before\": \"2027-01-15T08:00:00Z\", \"jti\": \"b\"}\r\n",
            "{\"jti\":\"a\"}\n\n{\"jti\":\"b\"}",
            "\u{feff}{\"jti\":\"a\"}\n\n{\"jti\":\"b\"}\n",
        ] {
            let list = read(text.as_bytes()).unwrap();
            let found = ["a", "b", "c"].map(|it| line_of(&list, it));
            assert_eq!(found, [Some(1), Some(3), None], "{text}");
        }
    }

    #[test]
    fn what_does_not_begin_with_an_entry_is_a_document() {
        for text in [
            "revoked:\n- jti: of-yaml\n",
            "# a comment\nrevoked: []\n",
            "{\"revoked\": []}",
            "{revoked: []}",
            "{\n  \"revoked\": []\n}\n",
            "---\nrevoked: []\n",
        ] {
            assert_eq!(line_of(&read(text.as_bytes()).unwrap(), "of-yaml"), Some(3), "{text}");
        }
        assert!(read(b"{\"jti\":\"revoked\"}\n").is_ok_and(|it| line_of(&it, "revoked").is_some()));
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        let good = "{\"jti\":\"a\"}\n";
        let most = usize::try_from(LONGEST_LINE).unwrap();
        for (line, told) in [
            ("{}", "names no token: give one of jti, sub, sid and client_id"),
            ("{\"before\":7}", "names no token"),
            ("{\"jti\":7}", "invalid type: integer `7`, expected a string"),
            ("{\"jti\":null}", "invalid type: null, expected a string"),
            ("{\"jti\":[\"a\"]}", "invalid type: sequence, expected a string"),
            ("{\"sub\":\"\"}", "`sub` must not be empty"),
            ("{\"jti\":\"a\",\"sid\":\"\"}", "`sid` must not be empty"),
            ("{\"user\":\"a\"}", "unknown field `user`"),
            ("{\"jti\":\"a\",\"jti\":\"b\"}", "duplicate field `jti`"),
            ("{\"jti\":\"a\",\"before\":\"yesterday\"}", "expected a time"),
            ("{\"jti\":\"a\",\"before\":1800000000000}", "`before` must be whole seconds"),
            ("{\"jti\":\"a\"", "is not an entry in JSON: EOF"),
            ("{\"jti\":\"a\"}}", "is not an entry in JSON: trailing characters"),
            ("[\"a\"]", "expected an object"),
            ("\"a\"", "expected an object"),
            ("jti: a", "is not an entry in JSON"),
            ("{\"revoked\":[]}", "unknown field `revoked`"),
            (&format!("{{\"jti\":\"{}\"}}", "a".repeat(most)), "is longer than 65536 bytes"),
        ] {
            for text in [format!("{good}{line}\n{good}"), format!("{good}{line}")] {
                let Fault { line: number, message: found, is_passing } =
                    read(text.as_bytes()).unwrap_err();
                assert_eq!((number, is_passing), (Some(2), false), "{text:.80}");
                assert!(found.starts_with(told) || found.contains(told), "{found} for {text:.80}");
                assert!(!found.contains(" at line "), "{found}");
            }
        }
        let not_utf_8 = read(b"{\"jti\":\"a\"}\n{\"jti\":\"\xff\"}\n").unwrap_err();
        assert_eq!(not_utf_8.line, Some(2));
        assert_eq!(read(b"wrong: 7").unwrap_err(), Fault::at(Some(2), "revoked[0]: wrong"));
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit() {
        let most = usize::try_from(LONGEST_LINE).unwrap();
        let line = |length: usize| format!("{{\"jti\":\"{}\"}}\n", "a".repeat(length - 11));
        assert_eq!(line(most).len(), most);
        assert!(read(line(most).as_bytes()).is_ok());
        assert!(read(line(most + 1).as_bytes()).is_err());
    }

    #[test]
    fn a_file_that_says_nothing_is_no_denylist() {
        for text in ["", "\n", " \r\n\t", "\u{feff}"] {
            let told = read(text.as_bytes()).unwrap_err().message;
            assert!(told.contains("write `revoked: []`"), "{text:?}: {told}");
        }
        let most = usize::try_from(LONGEST_YAML).unwrap();
        let longer = |by: usize| "#".repeat(most + by);
        assert!(read(longer(0).as_bytes()).is_ok());
        let told = read(longer(1).as_bytes()).unwrap_err().message;
        assert!(told.contains("write JSON Lines"), "{told}");
    }

    /// A disk that fails behind the first line.
    struct Failing(bool);

    impl Read for Failing {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let line = b"{\"jti\":\"a\"}\n";
            into.iter_mut().zip(line).for_each(|(to, from)| *to = *from);
            Ok(line.len())
        }
    }

    #[test]
    fn an_error_of_the_system_may_pass_and_one_of_the_file_does_not() {
        let failed = super::read(BufReader::with_capacity(16, Failing(false)), YAML).unwrap_err();
        assert!(failed.is_passing && failed.message.starts_with("cannot be read"), "{failed:?}");
        for (kind, is_passing) in [
            (io::ErrorKind::NotFound, false),
            (io::ErrorKind::PermissionDenied, false),
            (io::ErrorKind::TimedOut, true),
            (io::ErrorKind::StaleNetworkFileHandle, true),
        ] {
            assert_eq!(unreadable(&kind.into()).is_passing, is_passing, "{kind}");
        }
    }

    #[test]
    fn what_is_no_file_is_told_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let told = |path: &Path| open(path).unwrap_err().to_string();
        assert!(told(&missing).starts_with(&*missing.to_string_lossy()));
        assert!(told(folder.path()).ends_with("is not a regular file"));
    }
}

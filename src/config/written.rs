//! YAML with a comment at each line: configuration as it is written for operators.

/// A document under construction.
#[derive(Debug, Default)]
pub(crate) struct Document(String);

impl Document {
    /// A comment of its own.
    pub(crate) fn note(&mut self, depth: usize, text: &str) {
        self.write(depth, &format!("# {}", one_line(text)));
    }

    /// A key with what is below it.
    pub(crate) fn section(&mut self, key: &str) {
        self.write(0, &format!("{key}:"));
    }

    /// An empty line.
    pub(crate) fn gap(&mut self) {
        self.0.push('\n');
    }

    /// The first key of an element of a list, with its value, which is YAML already, and why it is so.
    pub(crate) fn element(&mut self, key: &str, value: &str, why: &str) {
        self.write(2, &format!("- {key}: {value}  # {}", one_line(why)));
    }

    /// Another key of the element.
    pub(crate) fn entry(&mut self, key: &str, value: &str, why: &str) {
        self.write(4, &format!("{key}: {value}  # {}", one_line(why)));
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }

    fn write(&mut self, depth: usize, line: &str) {
        self.0.extend(std::iter::repeat_n(' ', depth));
        self.0.push_str(line);
        self.0.push('\n');
    }
}

/// `text` as a YAML string with this value.
pub(crate) fn string(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// `items` as a YAML list of strings.
pub(crate) fn strings<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|it| string(it.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

/// Whether `text` can stand without quotation marks, also in a list, and is read as a string by every
/// version of YAML. In doubt it is quoted.
fn is_plain(text: &str) -> bool {
    let begins = text.starts_with(|it: char| it.is_ascii_alphabetic() || it == '/');
    let allowed = |it: u8| it.is_ascii_alphanumeric() || b"-._~/+:".contains(&it);
    let words = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let is_word = words.iter().any(|it| text.eq_ignore_ascii_case(it));
    begins && text.bytes().all(allowed) && !text.ends_with(':') && !is_word
}

/// In double quotes (YAML 1.2 §7.3.1).
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for it in text.chars() {
        match (it, u32::from(it)) {
            ('"' | '\\', _) => quoted.extend(['\\', it]),
            (' '..='~', _) => quoted.push(it),
            (_, code @ ..=0xffff) => quoted.extend(format!("\\u{code:04X}").chars()),
            (_, code) => quoted.extend(format!("\\U{code:08X}").chars()),
        }
    }
    quoted.push('"');
    quoted
}

/// What others chose, in a comment or a message: short, and without what ends a line or what a
/// terminal obeys.
pub(crate) fn shown(text: &str) -> String {
    let short: String = text.chars().take(LONGEST).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("\"{}{more}\"", short.escape_debug())
}

/// In characters.
const LONGEST: usize = 100;

/// A comment ends with its line.
fn one_line(text: &str) -> String {
    let is_break = |it: char| it.is_control() || "\u{2028}\u{2029}".contains(it);
    text.chars().map(|it| if is_break(it) { ' ' } else { it }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_read_as_something_else_is_quoted() {
        for (text, expected) in [
            ("https://as.example.com/realms/shop", "https://as.example.com/realms/shop"),
            ("at+jwt", "at+jwt"),
            ("api://default", "api://default"),
            ("/etc/keybound/ca.pem", "/etc/keybound/ca.pem"),
            ("", "\"\""),
            ("true", "\"true\""),
            ("NO", "\"NO\""),
            ("null", "\"null\""),
            ("~", "\"~\""),
            ("216", "\"216\""),
            ("1e3", "\"1e3\""),
            ("a: b", "\"a: b\""),
            ("a:", "\"a:\""),
            ("a #b", "\"a #b\""),
            ("a, b", "\"a, b\""),
            ("a]", "\"a]\""),
            ("- a", "\"- a\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
            ("a\nb\r\t", "\"a\\u000Ab\\u000D\\u0009\""),
            ("\u{85}\u{2028}\u{feff}", "\"\\u0085\\u2028\\uFEFF\""),
            ("é", "\"\\u00E9\""),
            ("\u{1f511}", "\"\\U0001F511\""),
            ("{{x}}", "\"{{x}}\""),
            ("&a", "\"&a\""),
            ("*a", "\"*a\""),
            ("!a", "\"!a\""),
        ] {
            assert_eq!(string(text), expected, "{text:?}");
        }
        assert_eq!(strings(["a", "b c"]), "[a, \"b c\"]");
    }

    #[test]
    fn a_comment_is_one_line_whatever_is_in_it() {
        for odd in ["a\nissuers: []", "a\r\nb", "a\u{85}b", "a\u{2028}b", "\u{1b}[31m"] {
            let mut document = Document::default();
            document.note(0, odd);
            document.element("name", "x", &shown(odd));
            let text = document.finish();
            assert_eq!(text.lines().count(), 2, "{text}");
            assert!(!text.contains(['\r', '\u{85}', '\u{2028}', '\u{1b}']), "{text}");
        }
        assert_eq!(shown(&"x".repeat(101)), format!("\"{}…\"", "x".repeat(100)));
    }
}

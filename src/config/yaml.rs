//! A YAML reader: the core schema of YAML 1.2 without anchors, aliases, tags and merge keys, and
//! with distinct string keys. JSON is a subset of it.
//!
//! It reads the parser's events rather than a loaded tree, since a loader recurses with the input
//! and lets the last of two equal keys win.

use super::problem::{Findings, Path};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

/// The maximum size of a file in bytes. A `ConfigMap` holds at most 1 MiB.
pub(super) const LONGEST: usize = 1024 * 1024;

/// How deep lists and mappings may be nested; ours need 6.
const DEEPEST: usize = 32;

/// Reads the one document in `text`. Unreadable values become null and are recorded.
///
/// Returns `None` if reading stopped; the reason is among the findings.
pub(super) fn read(text: &str, findings: &mut Findings) -> Option<Value> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Err(problem) = plain_text(text) {
        return stop(findings, problem.0, problem.1);
    }
    let mut tree = Tree { findings, open: vec![], root: None };
    for event in Parser::new_from_str(text) {
        let read = match event {
            Ok((event, span)) => tree.add(event, span),
            Err(error) => Err((error.marker().line(), format!("is not YAML: {}", error.info()))),
        };
        if let Err((line, message)) = read {
            return stop(findings, line, message);
        }
    }
    match tree.root {
        Some(root) if !root.is_null() => Some(root),
        Some(_) | None => stop(findings, 1, "the file is empty".to_owned()),
    }
}

/// A line and its error, after which reading stops.
type Stop = (usize, String);

fn stop(findings: &mut Findings, line: usize, message: String) -> Option<Value> {
    findings.unreadable_on(Some(line), &Path::default(), message);
    None
}

fn plain_text(text: &str) -> Result<(), Stop> {
    if LONGEST < text.len() {
        return Err((1, format!("the file is longer than {LONGEST} bytes")));
    }
    for (line, text) in (1..).zip(text.split('\n')) {
        if let Some(odd) = text.chars().find(|it| it.is_control() && !"\t\r\u{85}".contains(*it)) {
            return Err((line, format!("holds the control character U+{:04X}", u32::from(odd))));
        }
    }
    Ok(())
}

struct Tree<'a> {
    findings: &'a mut Findings,
    open: Vec<Open>,
    root: Option<Value>,
}

/// A list or mapping that is still open.
struct Open {
    at: Path,
    held: Held,
}

enum Held {
    List(Vec<Value>),
    /// What was read, and the key whose value comes next. A key that is there already has a
    /// value that is read and dropped.
    Mapping(Map<String, Value>, Option<(String, Known)>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    New,
    Repeated,
}

impl Tree<'_> {
    fn add(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        let line = span.start.line();
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err((line, "holds a second document: there may be only one".to_owned()))
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
            Event::SequenceStart(anchor, tag) => {
                self.open(Held::List(vec![]), line, anchor != 0, tag.is_some())
            }
            Event::MappingStart(anchor, tag) => {
                self.open(Held::Mapping(Map::new(), None), line, anchor != 0, tag.is_some())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.close();
                Ok(())
            }
            Event::Alias(_) if self.wants_key() => {
                Err((line, "a key is an alias: it must be a string".to_owned()))
            }
            Event::Alias(_) => {
                let at = self.place(line);
                self.findings.unreadable(&at, "is an alias: write the value out");
                self.put(Value::Null);
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.wants_key() {
                    return self.key(&text, style, line, anchor != 0 || tag.is_some());
                }
                let at = self.place(line);
                self.refuse_decorations(&at, anchor != 0, tag.is_some());
                let value = self.scalar(&text, style, &at);
                self.put(value);
                Ok(())
            }
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { held: Held::Mapping(_, None), .. }))
    }

    fn open(&mut self, held: Held, line: usize, anchor: bool, tag: bool) -> Result<(), Stop> {
        if self.wants_key() {
            return Err((line, "a key is a list or a mapping: it must be a string".to_owned()));
        }
        if DEEPEST <= self.open.len() {
            return Err((line, format!("is nested deeper than {DEEPEST} levels")));
        }
        let at = self.place(line);
        self.refuse_decorations(&at, anchor, tag);
        self.open.push(Open { at, held });
        Ok(())
    }

    fn close(&mut self) {
        match self.open.pop().map(|it| it.held) {
            Some(Held::List(items)) => self.put(Value::Array(items)),
            Some(Held::Mapping(entries, _)) => self.put(Value::Object(entries)),
            None => (),
        }
    }

    fn key(&mut self, text: &str, style: ScalarStyle, line: usize, odd: bool) -> Result<(), Stop> {
        let Some(Open { at, held: Held::Mapping(entries, next) }) = self.open.last_mut() else {
            return Ok(());
        };
        if odd {
            return Err((
                line,
                "a key has an anchor or a tag: it must be a plain string".to_owned(),
            ));
        }
        let known = if entries.contains_key(text) { Known::Repeated } else { Known::New };
        let place = at.key(text);
        *next = Some((text.to_owned(), known));
        if known == Known::Repeated {
            let message = "the key is there twice: remove one of them";
            self.findings.unreadable_on(Some(line), &place, message);
            return Ok(());
        }
        self.findings.line(place.clone(), line);
        if text == "<<" && style == ScalarStyle::Plain {
            self.findings.unreadable(&place, "is a merge key: write the values out");
        } else if style == ScalarStyle::Plain && !matches!(core(text), Some(Value::String(_))) {
            self.findings.unreadable(&place, "the key is not a string: put it in quotes");
        }
        Ok(())
    }

    /// Where the next value goes; notes its line.
    fn place(&mut self, line: usize) -> Path {
        let at = match self.open.last() {
            None => Path::default(),
            Some(Open { at, held: Held::List(items) }) => at.index(items.len()),
            Some(Open { at, held: Held::Mapping(_, next) }) => {
                next.as_ref().map_or_else(|| at.clone(), |(key, _)| at.key(key))
            }
        };
        self.findings.line(at.clone(), line);
        at
    }

    fn put(&mut self, value: Value) {
        match self.open.last_mut().map(|it| &mut it.held) {
            None => self.root = Some(value),
            Some(Held::List(items)) => items.push(value),
            Some(Held::Mapping(entries, next)) => {
                if let Some((key, Known::New)) = next.take() {
                    entries.insert(key, value);
                }
            }
        }
    }

    fn refuse_decorations(&mut self, at: &Path, anchor: bool, tag: bool) {
        if anchor {
            self.findings.unreadable(at, "has an anchor (`&`): write values out where they belong");
        }
        if tag {
            self.findings.unreadable(at, "has a tag (`!`): put strings in quotes instead");
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, at: &Path) -> Value {
        if style != ScalarStyle::Plain {
            return Value::String(text.to_owned());
        }
        core(text).unwrap_or_else(|| {
            self.findings.unreadable(at, "is not a number that can be held: put it in quotes");
            Value::Null
        })
    }
}

/// What a plain scalar means in the core schema (YAML 1.2.2 §10.3.2), where `off` and `no` are
/// strings. Nothing for a number that JSON has not.
fn core(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Value::Null),
        "true" | "True" | "TRUE" => return Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Value::Bool(false)),
        _ => (),
    }
    if let Some((digits, radix)) = radix(text) {
        return i64::from_str_radix(digits, radix).ok().map(Value::from);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return None;
    }
    if !unsigned.is_empty() && unsigned.bytes().all(|it| it.is_ascii_digit()) {
        return text.parse().ok().map(|it: i64| Value::from(it));
    }
    if is_float(unsigned) {
        return text.parse().ok().and_then(Number::from_f64).map(Value::Number);
    }
    Some(Value::String(text.to_owned()))
}

fn radix(text: &str) -> Option<(&str, u32)> {
    let hexadecimal = text.strip_prefix("0x").map(|it| (it, 16));
    let (digits, radix) = hexadecimal.or_else(|| text.strip_prefix("0o").map(|it| (it, 8)))?;
    let all = !digits.is_empty() && digits.chars().all(|it| it.is_digit(radix));
    all.then_some((digits, radix))
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(unsigned: &str) -> bool {
    let digits = |it: &str| it.bytes().all(|it| it.is_ascii_digit());
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let some = !(exponent.is_empty() || whole.is_empty() && fraction.is_empty());
    some && digits(whole) && digits(fraction) && digits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn reads(text: &str, expected: &Value) {
        let mut findings = Findings::default();
        assert_eq!(read(text, &mut findings).as_ref(), Some(expected), "{text}");
        assert_eq!(findings.finish().0, [], "{text}");
    }

    #[track_caller]
    fn refuses(text: &str, path: &str, line: usize, message: &str) {
        let mut findings = Findings::default();
        read(text, &mut findings);
        let (problems, _) = findings.finish();
        let [problem] = problems.as_slice() else { panic!("{text}: {problems:?}") };
        assert_eq!((problem.path.as_str(), problem.line), (path, Some(line)), "{problem}");
        assert!(problem.message.contains(message), "{problem}");
    }

    #[test]
    fn plain_scalars_mean_what_the_core_schema_says() {
        for (text, expected) in [
            ("off", json!("off")),
            ("no", json!("no")),
            ("y", json!("y")),
            ("True", json!(true)),
            ("'true'", json!("true")),
            ("\"1\"", json!("1")),
            ("2026", json!(2026)),
            ("-1", json!(-1)),
            ("0o17", json!(15)),
            ("0xfF", json!(255)),
            ("0x", json!("0x")),
            ("017", json!(17)),
            ("1.5e3", json!(1500.0)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            (".", json!(".")),
            ("e5", json!("e5")),
            ("1e", json!("1e")),
            ("1_000", json!("1_000")),
            ("30s", json!("30s")),
            ("127.0.0.1:9001", json!("127.0.0.1:9001")),
            ("2026-01-01", json!("2026-01-01")),
            ("infinity", json!("infinity")),
        ] {
            reads(&format!("key: {text}"), &json!({ "key": expected }));
        }
    }

    #[test]
    fn json_is_yaml_too() {
        let text = "{\n\t\"a\": [1, true, \"x\\/\\u00e9\"],\n\t\"b\": {\"c\":\"d\"}\n}\n";
        reads(text, &json!({"a": [1, true, "x/é"], "b": {"c": "d"}}));
    }

    #[test]
    fn comments_block_scalars_and_a_byte_order_mark_are_fine() {
        reads("\u{feff}---\n# a\na: |\n  b\n  c\n...\n", &json!({"a": "b\nc\n"}));
        reads("a:\r\n  - b\r\n", &json!({"a": ["b"]}));
    }

    #[test]
    fn what_a_configuration_has_no_use_for_is_refused() {
        refuses("", "", 1, "empty");
        refuses("# nothing\n", "", 1, "empty");
        refuses("a: 1\n---\nb: 1\n", "", 2, "second document");
        refuses("a: 1\nb: 2\na: 3\n", "a", 3, "twice");
        refuses("a:\n  b: {c: 1, c: 2}\n", "a.b.c", 2, "twice");
        refuses("a: &x 1\n", "a", 1, "anchor");
        refuses("a: &x {b: 1}\n", "a", 1, "anchor");
        refuses("a: !!str 1\n", "a", 1, "tag");
        refuses("a:\n- !secret x\n", "a[0]", 2, "tag");
        refuses("<<: {a: 1}\n", r#"["<<"]"#, 1, "merge key");
        refuses("a: 1\n2: b\n", r"2", 2, "quotes");
        refuses("true: b\n", "true", 1, "quotes");
        refuses("a: 1\n? [b]\n: c\n", "", 2, "a key is a list");
        refuses("&b a: 1\n", "", 1, "a key has an anchor");
        refuses("a: {{ .Values.x }}\n", "", 1, "a key is a list");
        refuses("a: .inf\n", "a", 1, "number");
        refuses("a: 99999999999999999999\n", "a", 1, "number");
        refuses("a: 1\nb: \u{0}\n", "", 2, "U+0000");
        refuses("b: 1\na: 'b\n", "", 2, "is not YAML");
        refuses("a: 1\n  b: 2\n", "", 2, "is not YAML");
    }

    #[test]
    fn an_alias_is_refused_where_it_stands() {
        let mut findings = Findings::default();
        read("a: &x 1\nb:\n- *x\n", &mut findings);
        let (problems, _) = findings.finish();
        assert_eq!(problems[1].path, "b[0]");
        assert!(problems[1].message.contains("alias"), "{problems:?}");
        let mut findings = Findings::default();
        assert_eq!(read("a: &x b\n*x : c\n", &mut findings), None);
        assert!(findings.finish().0[1].message.contains("a key is an alias"));
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&nested(DEEPEST), &mut Findings::default()).is_some());
        refuses(&nested(DEEPEST + 1), "", 1, "deeper");
        refuses(&"- ".repeat(LONGEST / 2), "", 1, "deeper");
        let long = |bytes: usize| format!("a: {}", "x".repeat(bytes - 3));
        assert!(read(&long(LONGEST), &mut Findings::default()).is_some());
        refuses(&long(LONGEST + 1), "", 1, "longer");
    }
}

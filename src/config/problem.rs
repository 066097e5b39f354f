//! Problems of a configuration, and their places in the file.

use serde::Serialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// An error or a warning about a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where it is, as in `policies[1].sender_constraint`; empty for the file as a whole.
    pub path: String,
    /// Its line, counted from 1, if known.
    pub line: Option<usize>,
    /// What is wrong, and how to fix it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl Problem {
    /// A problem with the file as a whole.
    pub(super) fn of_file(message: impl Into<String>) -> Self {
        Self::new(&Path::default(), None, &message.into())
    }

    /// A problem with the place `at` of another file in the notation of configurations.
    pub(crate) fn at(at: &str, line: Option<usize>, message: &str) -> Self {
        let whole = Self::new(&Path::default(), line, message);
        Self { path: at.to_owned(), ..whole }
    }

    /// A problem with `key` of the issuer at `index`, whose lines are `lines`.
    pub(super) fn of_issuer(
        index: usize,
        key: &str,
        lines: &[Option<usize>],
        message: &str,
    ) -> Self {
        let at = Path::default().key("issuers").index(index);
        let at = if key.is_empty() { at } else { at.key(key) };
        Self::new(&at, lines.get(index).copied().flatten(), message)
    }

    /// Escapes control characters, since messages quote the file and file names and go to a
    /// terminal.
    fn new(at: &Path, line: Option<usize>, message: &str) -> Self {
        let shown = |it: char| {
            let plain = matches!(it, '"' | '\'' | '\\');
            plain
                .then_some(it)
                .into_iter()
                .chain((!plain).then(|| it.escape_debug()).into_iter().flatten())
        };
        Self { path: at.to_string(), line, message: message.chars().flat_map(shown).collect() }
    }
}

/// A place in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Path(Vec<Step>);

/// One step down.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Path {
    /// The value of `key` at this place.
    pub(super) fn key(&self, key: &str) -> Self {
        self.step(Step::Key(key.to_owned()))
    }

    /// The element at `index` of the list at this place.
    pub(super) fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The parent and the last step; `None` for the root.
    pub(super) fn split_last(&self) -> Option<(Self, &Step)> {
        self.0.split_last().map(|(last, rest)| (Self(rest.to_vec()), last))
    }

    fn step(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if !is_plain(key) => write!(f, "[{key:?}]")?,
                Step::Key(key) if depth == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|it| it.is_ascii_alphanumeric() || b"_-".contains(&it))
}

/// The problems and warnings found so far.
///
/// Parts that cannot be read are removed from the tree, so that the rest can still be checked.
/// Callers give places in the remaining tree, and messages show those in the file.
#[derive(Debug, Default)]
pub(super) struct Findings {
    lines: HashMap<Path, usize>,
    /// Per list, the indices in the file of removed elements, ascending.
    taken_out: BTreeMap<Path, Vec<usize>>,
    unreadable: Vec<Path>,
    meant: Vec<Path>,
    problems: Vec<Problem>,
    /// Whether there are more than were recorded.
    more: bool,
    warnings: Vec<Problem>,
}

/// The maximum number of problems, more than anyone fixes at once. Each costs a look at those
/// before it, and some another reading.
pub(super) const MOST: usize = 100;

impl Findings {
    /// Records the line of a place in the file. The first call wins.
    pub(super) fn line(&mut self, at: Path, line: usize) {
        self.lines.entry(at).or_insert(line);
    }

    /// Records that `at` cannot be read. A second reason for the same place is dropped.
    pub(super) fn unreadable(&mut self, at: &Path, message: impl Into<String>) {
        if self.has_room() {
            let line = self.nearest_line(&self.in_file(at));
            self.unreadable_on(line, at, message);
        }
    }

    /// The same with a line of its own.
    pub(super) fn unreadable_on(
        &mut self,
        line: Option<usize>,
        at: &Path,
        message: impl Into<String>,
    ) {
        if !self.has_room() {
            return;
        }
        let at = self.in_file(at);
        if !self.unreadable.iter().any(|it| it.holds(&at)) {
            self.problems.push(Problem::new(&at, line, &message.into()));
            self.unreadable.push(at);
        }
    }

    /// The line of a place, or of the nearest one around it.
    pub(super) fn line_of(&self, at: &Path) -> Option<usize> {
        self.nearest_line(&self.in_file(at))
    }

    /// Records that something unreadable was meant as `at`, so that it is not reported as missing.
    pub(super) fn meant(&mut self, at: &Path) {
        let at = self.in_file(at);
        self.meant.push(at);
    }

    /// Records a problem, unless it only follows from an unreadable part.
    pub(super) fn problem(&mut self, at: &Path, message: impl Into<String>) {
        if !self.has_room() {
            return;
        }
        let at = self.in_file(at);
        if !self.unreadable.iter().any(|it| at.holds(it)) {
            let problem = self.told(&at, &message.into());
            self.problems.push(problem);
        }
    }

    /// Records a warning.
    pub(super) fn warning(&mut self, at: &Path, message: impl Into<String>) {
        let at = self.in_file(at);
        let warning = self.told(&at, &message.into());
        self.warnings.push(warning);
    }

    /// The value, or a problem that it is missing.
    pub(super) fn required<T>(&mut self, value: Option<T>, at: &Path, what: &str) -> Option<T> {
        if value.is_none() && !self.meant.contains(&self.in_file(at)) {
            self.problem(at, format!("is missing: {what}"));
        }
        value
    }

    /// Records that the element at `index` of the list at `list` was removed.
    pub(super) fn take_out(&mut self, list: &Path, index: usize) {
        let Some((list, Step::Index(index))) =
            self.in_file(&list.index(index)).split_last().map(|(at, last)| (at, last.clone()))
        else {
            return;
        };
        let taken = self.taken_out.entry(list).or_default();
        taken.push(index);
        taken.sort_unstable();
    }

    /// Whether there is a part at `at` or in it that could not be read.
    pub(super) fn is_incomplete(&self, at: &Path) -> bool {
        let at = self.in_file(at);
        self.unreadable.iter().any(|it| at.holds(it))
    }

    /// Whether elements of the list at `at` were removed.
    pub(super) fn has_lost_elements(&self, at: &Path) -> bool {
        self.taken_out.contains_key(&self.in_file(at))
    }

    /// Whether the maximum is reached.
    pub(super) fn is_full(&self) -> bool {
        MOST <= self.problems.len()
    }

    /// Records that there may be more problems.
    pub(super) fn give_up(&mut self) {
        self.more = true;
    }

    /// The problems and the warnings, each in the order of the file.
    pub(super) fn finish(mut self) -> (Vec<Problem>, Vec<Problem>) {
        // Stable, so that problems on one line stay in the order of the check.
        self.problems.sort_by_key(|it| it.line);
        self.warnings.sort_by_key(|it| it.line);
        if self.more {
            let message = "there are more problems: fix these first";
            self.problems.push(Problem::of_file(message));
        }
        (self.problems, self.warnings)
    }

    fn told(&self, at: &Path, message: &str) -> Problem {
        Problem::new(at, self.nearest_line(at), message)
    }

    /// Whether there is room for another problem; if not, records that there are more.
    fn has_room(&mut self) -> bool {
        self.more |= self.is_full();
        !self.is_full()
    }

    /// A missing key has no line, but its parent has one.
    fn nearest_line(&self, at: &Path) -> Option<usize> {
        let mut at = at.clone();
        loop {
            if let Some(line) = self.lines.get(&at) {
                return Some(*line);
            }
            at = at.split_last()?.0;
        }
    }

    fn in_file(&self, at: &Path) -> Path {
        at.steps().iter().fold(Path::default(), |path, step| match step {
            Step::Key(key) => path.key(key),
            Step::Index(index) => {
                let taken = self.taken_out.get(&path).map_or(&[][..], Vec::as_slice);
                let shifted = |index: usize, taken: &usize| {
                    if *taken <= index { index.saturating_add(1) } else { index }
                };
                path.index(taken.iter().fold(*index, shifted))
            }
        })
    }
}

/// Input in a message: quoted, and not longer than it needs to be.
pub(super) fn quoted(input: &str) -> String {
    const LONGEST: usize = 80;
    // The whole input is one value, of which any part may belong to the password.
    let input = without_user_information(input);
    let shown: String = input.chars().take(LONGEST).collect();
    let more = if shown.len() < input.len() { "…" } else { "" };
    format!("`{shown}{more}`")
}

/// The same text, with `…` in place of the user information of each URL in it: that may be a password
/// (RFC 3986 §3.2.1). It goes to the last `@` before a blank or a quotation mark, for in a password
/// that is not escaped as it should be there may be what otherwise ends it.
pub(super) fn without_credentials(text: &str) -> String {
    let ends = |it: char| matches!(it, '`' | '"' | '\'') || it.is_whitespace();
    let parts = text.split_inclusive(ends);
    parts.map(without_user_information).collect()
}

/// The same URL, with `…` in place of all from its `://` to the last `@`.
fn without_user_information(url: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let Some((_, host)) = rest.rsplit_once('@') else { return url.into() };
    format!("{scheme}://…@{host}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies() -> Path {
        Path::default().key("policies")
    }

    #[test]
    fn a_path_reads_like_the_file() {
        let claims = policies().index(1).key("claims");
        assert_eq!(claims.key("acr").index(0).to_string(), "policies[1].claims.acr[0]");
        assert_eq!(claims.key("a.b").to_string(), r#"policies[1].claims["a.b"]"#);
        assert_eq!(Path::default().to_string(), "");
    }

    #[test]
    fn places_are_told_as_they_are_in_the_file() {
        let mut findings = Findings::default();
        // [a, b, c, d] without b and then without a: c and d are left.
        findings.take_out(&policies(), 1);
        findings.take_out(&policies(), 0);
        findings.problem(&policies().index(0), "c");
        findings.problem(&policies().index(1), "d");
        let (problems, _) = findings.finish();
        let paths: Vec<_> = problems.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, ["policies[2]", "policies[3]"]);
    }

    #[test]
    fn what_is_missing_is_on_the_line_of_what_it_is_missing_from() {
        let mut findings = Findings::default();
        findings.line(policies().index(0), 7);
        findings.problem(&policies().index(0).key("name"), "is missing");
        assert_eq!(findings.finish().0[0].line, Some(7));
    }

    #[test]
    fn a_consequence_of_an_unreadable_part_is_no_problem_of_its_own() {
        let mut findings = Findings::default();
        findings.unreadable(&policies().index(0).key("name"), "not a string");
        findings.problem(&policies().index(0).key("name"), "is missing");
        findings.problem(&policies(), "is empty");
        findings.problem(&policies().index(0).key("mode"), "is wrong as well");
        assert_eq!(findings.finish().0.len(), 2);
    }

    #[test]
    fn a_message_holds_nothing_that_a_terminal_obeys() {
        let mut findings = Findings::default();
        let odd = "`\u{1b}[32m\u{9b}x`\r\n\t\u{202e}é \"\\' \u{7f}";
        findings.unreadable(&policies().key("a\u{1b}"), odd);
        findings.problem(&policies().key("b"), odd);
        findings.warning(&policies().key("c"), odd);
        let (problems, warnings) = findings.finish();
        let told = [problems, warnings, vec![Problem::of_file(odd)]].concat();
        assert_eq!(told.len(), 4);
        let shown = r#"`\u{1b}[32m\u{9b}x`\r\n\t\u{202e}é "\' \u{7f}"#;
        for problem in told {
            assert_eq!(problem.message, shown);
            assert!(!problem.to_string().contains(char::is_control), "{problem}");
        }
    }

    #[test]
    fn quoted_input_holds_no_password() {
        for (input, shown) in [
            ("https://g:secret@as.example.com/x", "`https://…@as.example.com/x`"),
            ("redis://:secret@h", "`redis://…@h`"),
            // What is not escaped as it should be may belong to a password.
            ("rediss://u:s/e@h", "`rediss://…@h`"),
            ("rediss://u:s?e#c@h/0", "`rediss://…@h/0`"),
            ("rediss://u:s://e@h", "`rediss://…@h`"),
            ("rediss://u:s e'c\"r@h", "`rediss://…@h`"),
            ("a://b@c b://d:e@f@g?h@i", "`a://…@i`"),
            ("https://as.example.com/@x", "`https://…@x`"),
            ("https://as.example.com/x", "`https://as.example.com/x`"),
            ("user@example.com", "`user@example.com`"),
        ] {
            assert_eq!(quoted(input), shown);
        }
    }

    #[test]
    fn a_message_keeps_what_follows_a_url_and_holds_no_password() {
        for (message, shown) in [
            ("\"a://b:c/d@e\" and `f://g?h@i`: mend it", "\"a://…@e\" and `f://…@i`: mend it"),
            ("at a://b://c:d@e or f@g", "at a://…@e or f@g"),
            ("a://b, not mail@example.com", "a://b, not mail@example.com"),
        ] {
            assert_eq!(without_credentials(message), shown);
        }
    }

    #[test]
    fn quoted_input_is_short() {
        assert_eq!(quoted(&"x".repeat(80)), format!("`{}`", "x".repeat(80)));
        assert_eq!(quoted(&"x".repeat(81)), format!("`{}…`", "x".repeat(80)));
    }
}

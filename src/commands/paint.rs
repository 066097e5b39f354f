//! Colour at a terminal: the sign at the start of a line, and what a message is about.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

/// Whether an output is coloured: it is a terminal, and nobody asked for plain text
/// (<https://no-color.org>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paint(bool);

/// A colour, as a terminal is told of it (ECMA-48 §8.3.117).
#[derive(Clone, Copy, Debug)]
pub(super) enum Colour {
    Red,
    Green,
    Yellow,
    Bold,
    Faint,
}

impl Paint {
    /// For standard output.
    pub(super) fn stdout() -> Self {
        Self::of(io::stdout().is_terminal(), |it| std::env::var_os(it))
    }

    /// For standard error.
    pub(super) fn stderr() -> Self {
        Self::of(io::stderr().is_terminal(), |it| std::env::var_os(it))
    }

    fn of(is_terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let refused = variable("NO_COLOR").is_some_and(|it| !it.is_empty());
        let is_dumb = variable("TERM").is_some_and(|it| it == "dumb");
        Self(is_terminal && !refused && !is_dumb)
    }

    /// Whether there is any colour.
    pub(super) const fn is_on(self) -> bool {
        self.0
    }

    /// `text` in this colour. It must hold nothing that a terminal obeys.
    pub(super) fn text(self, colour: Colour, text: &str) -> Cow<'_, str> {
        if !self.0 || text.is_empty() {
            return Cow::Borrowed(text);
        }
        let code = match colour {
            Colour::Bold => 1,
            Colour::Faint => 2,
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
        };
        Cow::Owned(format!("\u{1b}[{code}m{text}\u{1b}[0m"))
    }

    /// The lines of `text`, each with the colour of its sign.
    pub(super) fn lines(self, text: &str) -> Cow<'_, str> {
        if !self.0 {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.split_inclusive('\n').map(|it| self.line(it)).collect())
    }

    fn line(self, line: &str) -> String {
        let inner = line.trim_start_matches([' ', '|']);
        let indent = line.strip_suffix(inner).unwrap_or_default();
        let found = STARTS
            .iter()
            .find_map(|(start, colour)| Some((start, colour, inner.strip_prefix(start)?)));
        let Some((start, colour, rest)) = found else { return line.to_owned() };
        format!("{indent}{}{rest}", self.text(*colour, start))
    }
}

/// How lines start that have a colour.
const STARTS: &[(&str, Colour)] = &[
    ("✓", Colour::Green),
    ("✗", Colour::Red),
    ("·", Colour::Faint),
    ("?", Colour::Yellow),
    ("wanted:", Colour::Faint),
    ("note:", Colour::Yellow),
    ("detail:", Colour::Bold),
    ("advice:", Colour::Bold),
    ("advice on", Colour::Bold),
    ("what to do:", Colour::Bold),
];

/// Writes `text` to standard output, coloured at a terminal.
pub(super) fn print(text: &str) -> io::Result<()> {
    io::stdout().lock().write_all(Paint::stdout().lines(text).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_colour_at_a_terminal_unless_somebody_refuses_it() {
        for (is_terminal, variables, expected) in [
            (true, &[][..], true),
            (false, &[], false),
            (true, &[("NO_COLOR", "1")], false),
            (true, &[("NO_COLOR", "")], true),
            (true, &[("TERM", "dumb")], false),
            (true, &[("TERM", "xterm-256color")], true),
            (false, &[("TERM", "xterm-256color")], false),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|it| it.0 == name);
                found.map(|it| OsString::from(it.1))
            };
            assert_eq!(Paint::of(is_terminal, variable).is_on(), expected, "{variables:?}");
        }
    }

    #[test]
    fn a_sign_has_its_colour_and_nothing_else_changes() {
        let text = "GET /\n✓ token exp\n    wanted: later\n| ✗ denied\nadvice: ✓ x\nexpected\n";
        assert_eq!(Paint(false).lines(text), text);
        let coloured = "GET /\n\u{1b}[32m✓\u{1b}[0m token exp\n    \u{1b}[2mwanted:\u{1b}[0m later\n\
                        | \u{1b}[31m✗\u{1b}[0m denied\n\u{1b}[1madvice:\u{1b}[0m ✓ x\nexpected\n";
        assert_eq!(Paint(true).lines(text), coloured);
    }
}

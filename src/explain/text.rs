//! An explanation as text, for people: a line for each step, and the decision last.

use super::{Decision, Explained, Told};
use keybound_core::{Denial, Finding, Mark};
use std::collections::HashSet;
use std::fmt::{self, Display, Write};

/// The explanation as text.
pub(crate) fn of(explanation: &Explained) -> String {
    Text(explanation).to_string()
}

struct Text<'a>(&'a Explained);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explained { target, now, verdict, besides, decision, remarks, ways, .. } = self.0;
        let target = target.as_deref().unwrap_or("a malformed request");
        writeln!(f, "{}", Shown(target))?;
        writeln!(f, "as checked at {}\n", now.to_rfc3339())?;
        for step in verdict.facts.explanation.steps() {
            line(f, step.mark, &step.finding)?;
        }
        let (verified, unverified): (Vec<_>, Vec<_>) =
            besides.iter().map(|it| &it.0).partition(|it| it.verified);
        for (heading, mismatches) in [(BESIDES, verified), (UNVERIFIED, unverified)] {
            if !mismatches.is_empty() {
                writeln!(f, "\n{heading}")?;
            }
            for it in mismatches {
                line(f, Mark::Failed, &it.finding)?;
            }
        }
        writeln!(f)?;
        match &self.0.configuration {
            None => {}
            Some(Told::Write(yaml)) => writeln!(f, "{CONFIGURATION}\n\n{yaml}")?,
            Some(Told::Nothing(why)) => writeln!(f, "note: {NO_CONFIGURATION}: {}", Shown(why))?,
        }
        for remark in remarks {
            writeln!(f, "note: {remark}")?;
        }
        match decision {
            Decision::Allowed => {
                let proved = verdict.facts.proved.label();
                writeln!(f, "✓ allowed; proved possession of: {proved}")
            }
            Decision::Public => {
                writeln!(f, "✓ allowed: the policy is public, and asks for no token")
            }
            Decision::Served => {
                writeln!(f, "✓ served: keybound answers with the metadata of the resource itself")
            }
            Decision::Denied(denial) => {
                reasons(f, *denial, self.0)?;
                writeln!(f, "✗ denied with status {}: {denial}", denial.status())
            }
            Decision::Reported(denial) => {
                reasons(f, *denial, self.0)?;
                writeln!(f, "✓ allowed: the policy is in report mode and would deny: {denial}")
            }
            Decision::Open => {
                let way = ways.online;
                writeln!(f, "? undecided: `serve` would ask the issuer; so does {way}")
            }
        }?;
        match &self.0.kept {
            Some(kept) => writeln!(f, "{}", Shown(&kept.in_words())),
            None => Ok(()),
        }
    }
}

const CONFIGURATION: &str =
    "the issuer's configuration that would read such a token: its other keys stay as they are";

const NO_CONFIGURATION: &str = "no configuration is written that would read this token";

/// What stands above the mismatches beside the one that decides.
const BESIDES: &str = "wrong as well, though it is not what decides:";

const UNVERIFIED: &str =
    "wrong as well, by a token that no key of its issuer verifies, so anybody may have written it:";

fn line(f: &mut fmt::Formatter<'_>, mark: Mark, finding: &Finding) -> fmt::Result {
    let Finding { part, what, found, wanted } = finding;
    let sign = match mark {
        Mark::Passed => '✓',
        Mark::Failed => '✗',
        Mark::Noted => '·',
    };
    write!(f, "{sign} {part:13} {what:12} {}", Shown(found))?;
    let obvious = mark == Mark::Passed && found.trim_matches('"') == wanted.trim_matches('"');
    if !wanted.is_empty() && !obvious {
        write!(f, "\n{:28} wanted: {}", "", Shown(wanted))?;
    }
    writeln!(f)
}

fn reasons(f: &mut fmt::Formatter<'_>, denial: Denial, explained: &Explained) -> fmt::Result {
    let code = denial.error().map_or_else(String::new, |it| format!(" ({})", it.code()));
    writeln!(f, "the client reads: {}{code}", denial.sentence())?;
    if let Some(detail) = explained.verdict.facts.detail {
        writeln!(f, "detail: {} ({detail})", detail.sentence())?;
    }
    let first = explained.advice.as_deref().unwrap_or_default();
    writeln!(f, "advice: {}", Shown(first))?;
    let mut told = HashSet::from([first]);
    for (mismatch, advice) in &explained.besides {
        if told.insert(advice) {
            writeln!(f, "advice on {}: {}", mismatch.finding.what, Shown(advice))?;
        }
    }
    Ok(())
}

/// Text that may contain untrusted input: control characters are escaped for the terminal, and the
/// length is bounded.
struct Shown<'a>(&'a str);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        for character in characters.by_ref().take(SHOWN_CHARS) {
            if character.is_control() || REORDERING.contains(&character) {
                write!(f, "{}", character.escape_unicode())?;
            } else {
                f.write_char(character)?;
            }
        }
        if characters.next().is_some() { f.write_char('…') } else { Ok(()) }
    }
}

/// The most characters of one value.
const SHOWN_CHARS: usize = 400;

/// Characters that reorder others on a terminal (bidirectional controls).
const REORDERING: [char; 9] = [
    '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}',
    '\u{2069}',
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_neither_steers_nor_fills_the_terminal() {
        assert_eq!(Shown("é \"x\"").to_string(), "é \"x\"");
        assert_eq!(Shown("\u{1b}[2J\n\u{202e}").to_string(), "\\u{1b}[2J\\u{a}\\u{202e}");
        assert_eq!(Shown(&"é".repeat(400)).to_string(), "é".repeat(400));
        assert_eq!(Shown(&"é".repeat(401)).to_string(), "é".repeat(400) + "…");
    }
}

//! The command `reasons`: the reasons for a denial in a table, or all that there is to say about one.

use super::{complain, paint};
use crate::explain::usual_advice;
use keybound_core::{Denial, Detail, Fault, OAuthError};
use std::fmt::Write as _;
use std::process::ExitCode;

/// The arguments of `reasons`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// One reason, as logs and metrics name it [default: a table of all]
    reason: Option<String>,
}

/// Runs `reasons`.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let text = match &arguments.reason {
        None => Ok(table()),
        Some(label) => one(label).ok_or(label),
    };
    match text.map(|it| paint::print(&it)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(label) => {
            complain(&format!("no reason is called {label:?}: `keybound reasons` lists them all"));
            ExitCode::FAILURE
        }
    }
}

/// A line for each reason.
fn table() -> String {
    let line = |it: &Denial| {
        let error = it.error().map_or("–", OAuthError::code);
        format!("{:28} {}  {error:32}  {}\n", it.label(), it.status(), it.sentence())
    };
    Denial::ALL.iter().map(line).collect()
}

/// All about the reason with this label.
fn one(label: &str) -> Option<String> {
    let denial = Denial::labelled(label)?;
    let mut text = head(denial);
    for detail in Detail::ALL.iter().filter(|it| it.denial() == denial) {
        // Writing to a string cannot fail.
        let _written = writeln!(text, "detail {detail}: {}", detail.sentence());
    }
    text.push_str("what to do: ");
    text.push_str(usual_advice(denial));
    text.push('\n');
    Some(text)
}

fn head(denial: Denial) -> String {
    let error = denial.error().map_or("none", OAuthError::code);
    let (label, status, sentence) = (denial.label(), denial.status(), denial.sentence());
    let who = who_acts(denial.fault());
    format!("{label}: {sentence}\nstatus: {status}; OAuth error: {error}\nwho must act: {who}\n")
}

const fn who_acts(fault: Fault) -> &'static str {
    match fault {
        Fault::Client => {
            "whoever runs the client, the issuer of its token, or whoever configures keybound"
        }
        Fault::Dependency => {
            "whoever runs what keybound depends on: the issuer, its introspection endpoint, or Redis"
        }
        Fault::Keybound => "whoever runs keybound",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_in_the_table_and_told_by_its_label() {
        let table = table();
        assert_eq!(table.lines().count(), Denial::ALL.len());
        for denial in Denial::ALL {
            assert!(table.contains(&format!("{} ", denial.label())), "{denial}");
            let text = one(denial.label()).unwrap();
            assert!(text.starts_with(denial.label()) && text.contains("what to do: "), "{text}");
            assert!(text.contains("\nwho must act: whoever runs "), "{text}");
        }
        assert!(one("replay_unavailable").unwrap().contains("detail store_full: "));
        assert_eq!(one("no_such_reason"), None);
    }
}

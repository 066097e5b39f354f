//! Log lines on standard error, written without ever blocking a check.

use crate::clock::{Clock as _, SystemClock};
use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer as Line;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, fmt};

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// The log level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// A queue of log lines for all threads.
///
/// A line that does not fit is dropped and counted: a slow or missing reader of standard error must
/// not slow down a check.
#[derive(Clone, Debug)]
pub struct Sink {
    queue: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    coloured: bool,
}

/// The thread that writes the lines.
#[derive(Debug)]
pub struct Writer {
    queue: SyncSender<Vec<u8>>,
    ended: Receiver<Infallible>,
}

/// Queued lines: a few seconds of a busy log, a few megabytes.
const QUEUE_LINES: usize = 8192;

impl Sink {
    /// A sink, and the thread that writes its lines to `out`.
    pub fn to(out: impl Write + Send + 'static) -> io::Result<(Self, Writer)> {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let dropping = Arc::clone(&dropped);
        let sink = Self { queue: queue.clone(), dropped: dropping, coloured: false };
        let (ending, ended) = sync_channel(0);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            write_lines(&lines, out, &dropped);
            drop(ending);
        })?;
        Ok((sink, Writer { queue, ended }))
    }

    /// The same sink, whose lines of text have colours for a terminal.
    pub fn coloured(self, coloured: bool) -> Self {
        Self { coloured, ..self }
    }
}

impl Writer {
    /// Stops the thread and waits, within a time limit, until it has written all lines.
    pub fn finish(self) {
        if self.queue.try_send(END.to_vec()).is_ok() {
            let _ended = self.ended.recv_timeout(LAST_LINES);
        }
    }
}

/// The end marker, since no line is empty.
const END: &[u8] = b"";

/// How long shutdown waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

fn write_lines(lines: &Receiver<Vec<u8>>, mut out: impl Write, dropped: &AtomicU64) {
    while let Ok(line) = lines.recv()
        && line != END
    {
        // If standard error is gone, there is nowhere to report it.
        let _written = out.write_all(&line);
        let count = dropped.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _written = writeln!(
                out,
                r#"{{"level":"WARN","message":"log lines dropped","dropped":{count}}}"#
            );
        }
    }
    let _written = out.flush();
}

impl Write for Sink {
    /// Queues one line, which the formatter writes in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(line.to_vec()).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A subscriber that writes events to `sink`.
pub fn subscriber(
    format: Format,
    level: Level,
    sink: Sink,
) -> impl tracing::Subscriber + Send + Sync {
    let coloured = sink.coloured && format == Format::Text;
    let lines = fmt::layer().with_ansi(coloured).with_writer(sink);
    let lines = match format {
        Format::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        // For people, the module means nothing.
        Format::Text => lines.with_target(false).with_timer(Millis).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(targets(level)))
}

/// The time to the millisecond.
struct Millis;

impl FormatTime for Millis {
    fn format_time(&self, line: &mut Line<'_>) -> std::fmt::Result {
        line.write_str(&SystemClock.now().to_rfc3339_millis())
    }
}

/// Libraries log frames and headers, tokens among them, at their lower levels. So only their
/// warnings are enabled.
fn targets(level: Level) -> Targets {
    let level = LevelFilter::from(level);
    Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), level)
        .with_default(level.min(LevelFilter::WARN))
}

/// Sends every event of the process to `sink`, including panics.
pub fn install(
    format: Format,
    level: Level,
    sink: Sink,
) -> Result<(), tracing::subscriber::SetGlobalDefaultError> {
    tracing::subscriber::set_global_default(subscriber(format, level, sink))?;
    std::panic::set_hook(Box::new(|panic| {
        // The message is omitted, since it may quote request data.
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, "panic");
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::samples::Out;
    use tracing::subscriber::with_default;

    fn written(format: Format, events: impl FnOnce()) -> String {
        let out = Out::default();
        let (sink, writer) = Sink::to(out.clone()).unwrap();
        with_default(subscriber(format, Level::Info, sink), events);
        writer.finish();
        out.text()
    }

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        for format in [Format::Json, Format::Text] {
            let text = written(format, || {
                let kid = Some("a\nb\u{1b}[2J\"}");
                tracing::info!(kid, "denied");
            });
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(text.ends_with('\n') && !text.contains('\u{1b}'), "{text:?}");
        }
    }

    #[test]
    fn text_is_for_people_and_coloured_only_where_that_is_asked_for() {
        let told = |coloured| {
            let out = Out::default();
            let (sink, writer) = Sink::to(out.clone()).unwrap();
            let log = subscriber(Format::Text, Level::Info, sink.coloured(coloured));
            with_default(log, || tracing::warn!(kid = "a\u{1b}[2J", "denied"));
            writer.finish();
            out.text()
        };
        let plain = told(false);
        let words: Vec<_> = plain.split_ascii_whitespace().collect();
        let [time, level, message, kid] = words.as_slice() else { panic!("{plain}") };
        assert_eq!((*level, *message), ("WARN", "denied"));
        assert!(time.len() == "2027-01-15T08:00:00.000Z".len(), "{time}");
        assert!(!kid.contains('\u{1b}'), "{kid:?}");
        let coloured = told(true);
        assert!(
            coloured.contains("\u{1b}[33m WARN") && !coloured.contains("\u{1b}[2J"),
            "{coloured:?}"
        );
        assert_eq!(coloured.matches('\n').count(), 1);
    }

    #[test]
    fn libraries_get_to_warn_and_no_more() {
        let text = written(Format::Json, || {
            tracing::info!(target: "h2", "frame");
            tracing::warn!(target: "h2", "odd");
            tracing::debug!("allowed");
            tracing::info!("denied");
        });
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("odd") && text.contains("denied"), "{text}");
    }

    #[test]
    fn a_reader_that_is_slow_holds_up_nobody() {
        let out = Out::default();
        let (sink, writer) = Sink::to(out.clone()).unwrap();
        let stalled = out.0.lock().unwrap();
        let dropped = Arc::clone(&sink.dropped);
        with_default(subscriber(Format::Json, Level::Info, sink), || {
            for _ in 0..=QUEUE_LINES.saturating_mul(2) {
                tracing::info!("denied");
            }
        });
        assert!(QUEUE_LINES <= usize::try_from(dropped.load(Ordering::Relaxed)).unwrap());
        drop(stalled);
        drop(writer);
    }
}

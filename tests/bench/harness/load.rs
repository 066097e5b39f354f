//! Load on a server, timed: as fast as answers come, or at a
//! steady rate.

use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[derive(Args)]
pub(super) struct Options {
    /// Where the server listens.
    #[arg(long)]
    pub(super) to: String,
    /// The requests, which are sent in turn.
    #[arg(long)]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) shape: Shape,
}

/// How much load.
#[derive(Args)]
pub(super) struct Shape {
    #[arg(long, default_value_t = 4)]
    pub(super) connections: usize,
    /// How many requests are under way at once on each connection.
    #[arg(long, default_value_t = 16)]
    pub(super) in_flight: usize,
    /// For how long figures are taken.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// For how long requests are sent before that.
    #[arg(long, default_value_t = 1.0)]
    warm: f64,
    /// So many requests a second in all; without it, as fast as answers come.
    #[arg(long)]
    rate: Option<f64>,
    /// So many requests, and figures of all of them, however long it takes.
    #[arg(long)]
    pub(super) count: Option<usize>,
    /// The processes whose CPU time is told for each request.
    #[arg(long)]
    pid: Vec<String>,
}

/// Who asks one request after another.
pub(super) trait Asker: Send + 'static {
    /// Asks the request of this number. What was decided.
    fn ask(&mut self, number: usize) -> impl Future<Output = Result<String, Failure>> + Send;
}

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What one of the requests under way at once has seen.
#[derive(Default)]
struct Seen {
    nanos: Vec<u32>,
    verdicts: BTreeMap<String, u64>,
    errors: u64,
}

struct Plan {
    next: AtomicUsize,
    last: usize,
    start: Instant,
    begin: Instant,
    end: Option<Instant>,
    step: Option<Duration>,
}

/// Lets all of `askers` ask at the same time, and prints what they saw.
pub(super) async fn run<A: Asker>(shape: &Shape, askers: Vec<A>) {
    let start = Instant::now();
    let warm = if shape.count.is_some() { 0.0 } else { shape.warm };
    let begin = start + Duration::from_secs_f64(warm);
    let workers = askers.len();
    let plan = Arc::new(Plan {
        next: AtomicUsize::new(0),
        last: shape.count.unwrap_or(usize::MAX),
        start,
        begin,
        end: shape.count.is_none().then(|| begin + Duration::from_secs_f64(shape.seconds)),
        step: shape.rate.map(|rate| Duration::from_secs_f64(workers as f64 / rate)),
    });
    let tasks = askers.into_iter().enumerate().map(|(place, asker)| {
        let (plan, first) = (Arc::clone(&plan), place as f64 / workers as f64);
        tokio::spawn(async move { worker(&plan, asker, first).await })
    });
    let tasks: Vec<_> = tasks.collect();
    let cpu = || shape.pid.iter().map(|it| cpu_nanos(it)).collect::<Vec<_>>();
    tokio::time::sleep_until(begin.into()).await;
    let (before, from) = (cpu(), Instant::now());
    if let Some(end) = plan.end {
        tokio::time::sleep_until(end.into()).await;
    } else {
        while tasks.iter().any(|it| !it.is_finished()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let (after, wall) = (cpu(), from.elapsed());
    let mut all = Seen::default();
    for task in tasks {
        let seen = tokio::time::timeout(Duration::from_secs(10), task).await.unwrap().unwrap();
        all.nanos.extend(seen.nanos);
        all.errors += seen.errors;
        for (verdict, count) in seen.verdicts {
            *all.verdicts.entry(verdict).or_default() += count;
        }
    }
    all.nanos.sort_unstable();
    let count = all.nanos.len();
    let micros = |share: f64| {
        let place = (count as f64 * share) as usize;
        all.nanos.get(place.min(count.saturating_sub(1))).map(|it| f64::from(*it) / 1e3)
    };
    let spent = before.iter().zip(&after).map(|(before, after)| after - before);
    let spent: Vec<_> = spent.map(|it| it as f64 / 1e3 / count.max(1) as f64).collect();
    let told = json!({
        "count": count, "rate": count as f64 / wall.as_secs_f64(), "errors": all.errors,
        "p50": micros(0.5), "p90": micros(0.9), "p99": micros(0.99), "verdicts": all.verdicts,
        "cpu": spent.iter().sum::<f64>(), "cpu_of_each": spent,
    });
    println!("{told}");
}

async fn worker<A: Asker>(plan: &Plan, mut asker: A, first: f64) -> Seen {
    let mut seen = Seen::default();
    for turn in 0.. {
        let mut from = Instant::now();
        if let Some(step) = plan.step {
            let due = plan.start + step.mul_f64(first + f64::from(turn));
            if from < due {
                tokio::time::sleep_until(due.into()).await;
                // The timer's own lateness does not count, that of the answer before does.
                from = Instant::now();
            } else {
                from = due;
            }
        }
        let number = plan.next.fetch_add(1, Ordering::Relaxed);
        if plan.last <= number || plan.end.is_some_and(|it| it <= from) {
            break;
        }
        let answer = asker.ask(number).await;
        if from < plan.begin && answer.is_ok() {
            continue;
        }
        match answer {
            Ok(verdict) => {
                let nanos = u32::try_from(from.elapsed().as_nanos()).unwrap_or(u32::MAX);
                seen.nanos.push(nanos);
                *seen.verdicts.entry(verdict).or_default() += 1;
            }
            Err(error) => {
                eprintln!("{error}");
                seen.errors += 1;
                break;
            }
        }
    }
    seen
}

/// The CPU time of a process so far, in nanoseconds, of all its threads that live.
pub(super) fn cpu_nanos(pid: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    nanos.sum()
}

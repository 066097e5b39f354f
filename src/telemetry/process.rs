//! The metrics of the process, by the names that Prometheus' client libraries share. They are read anew for
//! each scrape; what the system does not tell is left out.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use std::fs;

/// What the system tells of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    /// The CPU time of all its threads, in clock ticks.
    ticks: f64,
    threads: f64,
    /// When it began, in clock ticks since the machine did.
    began: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

/// The metrics of this process.
pub(super) fn families() -> prometheus::Result<Vec<MetricFamily>> {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let mut families = vec![];
    if let Some(it) = Figures::read(&stat) {
        families.extend(told_by(it)?);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is open for this look alone.
        let count = number(u64::try_from(open.count().saturating_sub(1)).unwrap_or(u64::MAX));
        families.extend(gauge("process_open_fds", "Open file descriptors.", count)?);
    }
    if let Some(most) = getrlimit(Resource::Nofile).current {
        families.extend(gauge("process_max_fds", "Most open file descriptors.", number(most))?);
    }
    Ok(families)
}

fn told_by(it: Figures) -> prometheus::Result<Vec<MetricFamily>> {
    let second = number(clock_ticks_per_second());
    let page = number(u64::try_from(page_size()).unwrap_or_default());
    let seconds =
        Counter::new("process_cpu_seconds_total", "CPU time of all threads, in seconds.")?;
    seconds.inc_by(it.ticks / second);
    let mut families = seconds.collect();
    let resident = it.resident_pages * page;
    families.extend(gauge(
        "process_resident_memory_bytes",
        "Resident memory, in bytes.",
        resident,
    )?);
    let bytes = it.virtual_bytes;
    families.extend(gauge("process_virtual_memory_bytes", "Virtual memory, in bytes.", bytes)?);
    families.extend(gauge("process_threads", "Threads.", it.threads)?);
    let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
    if let Some(boot) = boot_time(&machine) {
        let began = boot + it.began / second;
        let help = "When the process began, in seconds since 1970.";
        families.extend(gauge("process_start_time_seconds", help, began)?);
    }
    Ok(families)
}

impl Figures {
    /// Reads `/proc/self/stat` (proc(5)).
    fn read(stat: &str) -> Option<Self> {
        // The name of the program comes in brackets, and may hold blanks and brackets itself.
        let (_, behind) = stat.rsplit_once(") ")?;
        let fields: Vec<_> = behind.split_ascii_whitespace().collect();
        // The first of them is the third of proc(5).
        let field = |place: usize| fields.get(place.checked_sub(3)?)?.parse::<f64>().ok();
        Some(Self {
            ticks: field(14)? + field(15)?,
            threads: field(20)?,
            began: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// When the machine began, in seconds since 1970, by `/proc/stat`.
fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|it| it.strip_prefix("btime "))?.trim().parse().ok()
}

fn gauge(name: &str, help: &str, value: f64) -> prometheus::Result<Vec<MetricFamily>> {
    let gauge = Gauge::new(name, help)?;
    gauge.set(value);
    Ok(gauge.collect())
}

/// Exact below 2^53, and near enough above.
fn number(it: u64) -> f64 {
    let (high, low) = (it >> 32, it & u64::from(u32::MAX));
    let half = |it: u64| f64::from(u32::try_from(it).unwrap_or(u32::MAX));
    half(high).mul_add(4_294_967_296.0, half(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_an_odd_name_is_read_as_any_other() {
        let rest = "S 1 1 1 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 3 0 7000 2097152 128 1";
        let expected = Figures {
            ticks: 200.0,
            threads: 3.0,
            began: 7000.0,
            virtual_bytes: 2_097_152.0,
            resident_pages: 128.0,
        };
        for name in ["keybound", "a b", "a) S 2 (b"] {
            let stat = format!("1 ({name}) {rest}\n");
            assert_eq!(Figures::read(&stat), Some(expected), "{stat}");
        }
        for odd in ["", "1 (x", "1 (x) S 1", "1 (x) S a b c d e f g h i j k l m n o p q r s t u v"]
        {
            assert_eq!(Figures::read(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_machine_began_when_it_says() {
        assert_eq!(boot_time("cpu 1 2\nbtime 1800000000\nctxt 1\n"), Some(1_800_000_000.0));
        assert_eq!(boot_time("cpu 1 2\n"), None);
    }

    #[test]
    fn each_is_there_where_the_system_tells() {
        let families = families().unwrap();
        let value = |name: &str| {
            let family = families.iter().find(|it| it.name() == name).unwrap();
            let metric = family.get_metric().first().unwrap().clone();
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        for name in [
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
            "process_resident_memory_bytes",
            "process_virtual_memory_bytes",
            "process_start_time_seconds",
            "process_threads",
        ] {
            assert!(0.0 <= value(name), "{name}");
        }
        let (resident, all) = ("process_resident_memory_bytes", "process_virtual_memory_bytes");
        assert!(1_000_000.0 < value(resident) && value(resident) < value(all));
        assert!(1_700_000_000.0 < value("process_start_time_seconds"));
    }
}

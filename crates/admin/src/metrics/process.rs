//! What the process uses, under the names that Prometheus has for it.

use metrics::{describe_gauge, gauge};

/// Reads `/proc`; where there is none, nothing is reported.
pub(crate) fn report() {
    if let Some((cpu_s, resident_bytes)) = read_stat() {
        gauge!("process_cpu_seconds_total").set(cpu_s);
        gauge!("process_resident_memory_bytes").set(resident_bytes);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        gauge!("process_open_fds").set(f64::from(
            u32::try_from(entries.count()).unwrap_or(u32::MAX),
        ));
    }
}

/// CPU seconds and resident bytes.
#[expect(
    clippy::cast_precision_loss,
    reason = "a gauge needs no more than 52 bits"
)]
fn read_stat() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the command, in parentheses, may contain spaces. After it come the fields from the third on.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = field(14)? + field(15)?;
    let pages = field(24)?;
    Some((
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        pages as f64 * rustix::param::page_size() as f64,
    ))
}

pub(super) fn describe() {
    describe_gauge!("process_cpu_seconds_total", "CPU time of the process");
    describe_gauge!("process_resident_memory_bytes", "Memory of the process");
    describe_gauge!("process_open_fds", "Open file descriptors of the process");
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_is_measured() {
        let (_, resident_bytes) = super::read_stat().expect("/proc is there");
        assert!(resident_bytes > 100_000.0);
    }
}

//! What the servers' processes cost, read from `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::Context;

/// CPU time and memory of a process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// User and system time of all its threads since it started.
    pub(super) cpu: Duration,
    pub(super) resident_bytes: u64,
    /// Written to disks since it started, in whole pages.
    pub(super) disk_bytes: u64,
}

/// Reads the usage of a process.
///
/// # Errors
/// When there is no such process, or no `/proc`.
pub(super) fn usage(pid: u32) -> anyhow::Result<Usage> {
    let read = |file: &str| {
        fs::read_to_string(format!("/proc/{pid}/{file}"))
            .with_context(|| format!("cannot read the usage of process {pid}"))
    };
    let unexpected = || format!("/proc/{pid} has an unexpected format");
    Ok(Usage {
        cpu: parse_stat(&read("stat")?).with_context(unexpected)?,
        resident_bytes: parse_status(&read("status")?).with_context(unexpected)?,
        disk_bytes: parse_io(&read("io")?).with_context(unexpected)?,
    })
}

/// Usage of several processes, added up.
///
/// # Errors
/// As [`usage`].
pub(super) fn usage_of_all(pids: &[u32]) -> anyhow::Result<Usage> {
    pids.iter().try_fold(Usage::default(), |sum, pid| {
        let one = usage(*pid)?;
        Ok(Usage {
            cpu: sum.cpu + one.cpu,
            resident_bytes: sum.resident_bytes + one.resident_bytes,
            disk_bytes: sum.disk_bytes + one.disk_bytes,
        })
    })
}

/// User and system time, fields 14 and 15. The name in field 2 may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<Duration> {
    /// Linux counts in units of 10 ms here, whatever its own clock does.
    const TICK_MS: u64 = 10;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * TICK_MS))
}

fn parse_status(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

fn parse_io(io: &str) -> Option<u64> {
    let mut lines = io.lines();
    lines
        .find_map(|line| line.strip_prefix("write_bytes: "))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_process_with_an_odd_name_is_read() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 7 7 20 0 4 0 100 1000 10";
        assert_eq!(parse_stat(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_status("Name:\ta\nVmRSS:\t  5120 kB\n"), Some(5 << 20));
        assert_eq!(parse_stat("42 (a) S 1"), None);
        assert_eq!(parse_io("wchar: 1\nwrite_bytes: 8192\n"), Some(8192));
    }

    #[test]
    fn this_process_uses_something() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.resident_bytes > 1 << 16);
        assert!(usage_of_all(&[u32::MAX]).is_err());
    }
}

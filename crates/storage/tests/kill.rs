//! kill -9 in a loop: the test runs itself as a child process that appends and says what is
//! durable, and kills it at a random moment.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Random, entries, purged, small};
use magpie_storage::{GroupId, Log, RealDisk};

const DIR: &str = "STORAGE_KILL_TEST_DIR";
const GROUPS: u32 = 3;
const ROUNDS: u64 = 25;

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    if let Ok(dir) = std::env::var(DIR) {
        return append_forever(&dir);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(1);
    let mut acknowledged = [0_u64; GROUPS as usize];
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "kill_9_loses_nothing_that_was_acknowledged",
                "--nocapture",
            ])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let killer = std::thread::spawn({
            let wait = 5 + random.below(120);
            move || {
                std::thread::sleep(Duration::from_millis(wait));
                child.kill().unwrap();
                child.wait().unwrap();
            }
        });
        for line in output.lines().map_while(Result::ok) {
            // "durable GROUP INDEX."; the last line may be cut short.
            let Some(line) = line.strip_suffix('.') else {
                continue;
            };
            let words: Vec<_> = line.split(' ').collect();
            if let ["durable", group, index] = words[..] {
                let group: usize = group.parse().unwrap();
                acknowledged[group] = index.parse().unwrap();
            }
        }
        killer.join().unwrap();

        let (log, _) = Log::open(dir.path(), small(), RealDisk).unwrap();
        for group in 0..GROUPS {
            let range = log.range(GroupId(group));
            let durable = acknowledged[group as usize];
            assert!(
                range.end > durable,
                "round {round} group {group}: {range:?}, {durable}"
            );
            assert_eq!(common::read_all(&log, group), entries(range, 1));
        }
    }
    assert!(acknowledged.iter().all(|index| *index > 0));
}

fn append_forever(dir: &str) {
    let (log, _) = Log::open(dir, small(), RealDisk).unwrap();
    let mut next: Vec<_> = (0..GROUPS)
        .map(|group| log.range(GroupId(group)).end.max(1))
        .collect();
    let mut random = Random(u64::from(std::process::id()));
    loop {
        let group = random.below(u64::from(GROUPS)) as usize;
        let id = GroupId(group as u32);
        let first = next[group];
        let upto = first + random.below(8);
        next[group] = upto + 1;
        log.append(id, entries(first..upto + 1, 1), move |result| {
            result.unwrap();
            let line = format!("durable {group} {upto}.\n");
            std::io::stdout().write_all(line.as_bytes()).unwrap();
        })
        .unwrap();
        if group > 0 && upto > 300 && random.below(10) == 0 {
            log.purge(id, purged(upto - 300), |_| {}).unwrap();
        }
        std::thread::sleep(Duration::from_micros(random.below(200)));
    }
}

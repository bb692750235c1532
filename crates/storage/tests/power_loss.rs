//! Random operations, a loss of power at any moment, and what must be there afterwards: everything
//! that was acknowledged, and beyond it only a prefix of what was asked for.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use common::{Random, small};
use magpie_storage::{Entry, Error, GroupId, Log, Purged, SimulatedDisk};

const GROUPS: u32 = 4;
const ROUNDS: u64 = 6;

/// What one group should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    entries: BTreeMap<u64, (u64, Bytes)>,
    vote: Option<Bytes>,
    purged: Option<Purged>,
}

/// A change that is found wholly or not at all.
#[derive(Debug, Clone)]
enum Step {
    Entry(u32, Entry),
    Truncate(u32, u64),
    Purge(u32, Purged),
    Vote(u32, Bytes),
    Remove(u32),
}

fn apply(state: &mut BTreeMap<u32, Model>, step: &Step) {
    let group = match step {
        Step::Entry(g, _)
        | Step::Truncate(g, _)
        | Step::Purge(g, _)
        | Step::Vote(g, _)
        | Step::Remove(g) => *g,
    };
    let model = state.get_mut(&group).unwrap();
    match step.clone() {
        Step::Entry(_, entry) => {
            model
                .entries
                .insert(entry.index, (entry.term, entry.payload));
        }
        Step::Truncate(_, from) => {
            model.entries.split_off(&from);
        }
        Step::Purge(_, purged) => {
            model.entries = model.entries.split_off(&(purged.index + 1));
            model.purged = Some(purged);
        }
        Step::Vote(_, vote) => model.vote = Some(vote),
        Step::Remove(_) => *model = Model::default(),
    }
}

fn recovered(log: &Log) -> Result<BTreeMap<u32, Model>, Error> {
    (0..GROUPS)
        .map(|group| {
            let entries = log.read(GroupId(group), 0..u64::MAX, usize::MAX)?;
            let model = Model {
                entries: entries
                    .into_iter()
                    .map(|e| (e.index, (e.term, e.payload)))
                    .collect(),
                vote: log.vote(GroupId(group)),
                purged: log.purged(GroupId(group)),
            };
            Ok((group, model))
        })
        .collect()
}

struct Driver {
    random: Random,
    state: BTreeMap<u32, Model>,
    /// Steps of this life of the log, acknowledged or not.
    steps: Vec<Step>,
    acknowledged: Arc<AtomicUsize>,
}

impl Driver {
    /// Does one operation; false when the disk has stopped.
    fn operate(&mut self, log: &Log) -> bool {
        let group = self.random.below(u64::from(GROUPS)) as u32;
        let id = GroupId(group);
        let model = &self.state[&group];
        let first = model.entries.keys().next().copied();
        let last = model.entries.keys().last().copied();
        let next = last
            .or_else(|| model.purged.as_ref().map(|p| p.index))
            .map_or(1, |last| last + 1);
        let mut new = Vec::new();
        // The first group is slow: it hardly ever purges.
        let purges = group != 0 || self.random.below(50) == 0;
        let result = match self.random.below(100) {
            0..=4 if first.is_some() => {
                let (first, last) = (first.unwrap(), last.unwrap());
                let from = first + self.random.below(last - first + 1);
                new.push(Step::Truncate(group, from));
                log.truncate(id, from, self.done(1))
            }
            5..=14 if purges && first.is_some() => {
                let (first, last) = (first.unwrap(), last.unwrap());
                let purged = Purged {
                    index: first + self.random.below(last - first + 4),
                    term: 1,
                    note: vec![7; self.random.below(30) as usize].into(),
                };
                new.push(Step::Purge(group, purged.clone()));
                log.purge(id, purged, self.done(1))
            }
            15..=20 => {
                let vote = Bytes::from(self.random.next().to_le_bytes().to_vec());
                new.push(Step::Vote(group, vote.clone()));
                log.save_vote(id, vote, self.done(1))
            }
            21 if group != 0 => {
                new.push(Step::Remove(group));
                log.remove_group(id, self.done(1))
            }
            22..=25 => log.save_committed(id, Bytes::from_static(b"committed")),
            _ => {
                let count = 1 + self.random.below(12);
                let entries: Vec<_> = (next..next + count)
                    .map(|index| Entry {
                        index,
                        term: self.random.below(9),
                        payload: vec![index as u8; self.random.below(700) as usize].into(),
                    })
                    .collect();
                new.extend(entries.iter().map(|e| Step::Entry(group, e.clone())));
                log.append(id, entries, self.done(count as usize))
            }
        };
        if result.is_err() {
            return false;
        }
        for step in new {
            apply(&mut self.state, &step);
            self.steps.push(step);
        }
        if self.random.below(20) == 0 {
            // Reads see what was asked for at once, durable or not.
            match recovered(log) {
                Ok(found) => assert_eq!(found[&group], self.state[&group]),
                Err(Error::Io { .. }) => return false,
                Err(error) => panic!("{error}"),
            }
        }
        if self.random.below(8) == 0 {
            std::thread::sleep(std::time::Duration::from_micros(self.random.below(1000)));
        }
        true
    }

    fn done(&self, steps: usize) -> impl FnOnce(Result<(), Error>) + Send + 'static {
        let upto = self.steps.len() + steps;
        let acknowledged = self.acknowledged.clone();
        move |result| {
            if result.is_ok() {
                let before = acknowledged.swap(upto, Ordering::SeqCst);
                assert!(before < upto, "acknowledged out of order");
            }
        }
    }
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let mut disk = SimulatedDisk::default();
    let mut before: BTreeMap<u32, Model> = (0..GROUPS).map(|g| (g, Model::default())).collect();
    let mut steps: Vec<Step> = Vec::new();
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        // A start may be cut short, too.
        if random.below(4) == 0 {
            disk.stop_after(random.below(40));
            if let Err(error) = Log::open("/log", small(), disk.clone()).map(drop) {
                let ordinary = matches!(error, Error::Io { .. });
                assert!(ordinary, "seed {seed} round {round}: {error}");
            }
            disk = disk.power_loss(random.next());
        }
        let (log, _) = Log::open("/log", small(), disk.clone())
            .unwrap_or_else(|error| panic!("seed {seed} round {round}: {error}"));
        let found = recovered(&log).unwrap();
        for step in &steps[..acknowledged] {
            apply(&mut before, step);
        }
        let mut beyond = steps[acknowledged..].iter();
        while found != before {
            let step = beyond
                .next()
                .unwrap_or_else(|| panic!("seed {seed} round {round}: not a prefix"));
            apply(&mut before, step);
        }

        let mut driver = Driver {
            random: Random(random.next()),
            state: before.clone(),
            steps: Vec::new(),
            acknowledged: Arc::default(),
        };
        disk.stop_after(random.below(400));
        for _ in 0..random.below(1500) {
            if !driver.operate(&log) {
                break;
            }
        }
        if random.below(2) == 0 {
            // Long enough for the idle watermark.
            std::thread::sleep(std::time::Duration::from_millis(15));
        }
        let crashed = match random.below(4) {
            0 => disk.process_killed(),
            _ => disk.power_loss(random.next()),
        };
        drop(log);
        disk = crashed;
        acknowledged = driver.acknowledged.load(Ordering::SeqCst);
        steps = driver.steps;
    }
}

#[test]
fn a_loss_of_power_takes_nothing_that_was_acknowledged() {
    let seeds = std::env::var("STORAGE_SEEDS").ok();
    let seeds: u64 = seeds.and_then(|text| text.parse().ok()).unwrap_or(60);
    for seed in 0..seeds {
        run(seed);
    }
}

//! Refusals that repeat: the first is told, those like it within ten seconds are counted, and how many there were is told then.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::event::cut;
use crate::{Refusal, What};

/// How long refusals that are alike are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// So many different ones are told apart at a time; of others only their kind is.
const KINDS_MAX: usize = 1024;

/// What was refused lately.
#[derive(Default)]
pub(crate) struct Flood {
    recent: HashMap<Key, Recent, RandomState>,
}

/// Refusals with the same key are alike. What one client asks for makes no difference: it can ask for anything.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    what: What,
    why: &'static str,
    /// `None`: one of too many.
    who: Option<Who>,
}

#[derive(PartialEq, Eq, Hash)]
struct Who {
    client: Box<str>,
    user: Option<Box<str>>,
    address: Option<IpAddr>,
}

struct Recent {
    since: Instant,
    /// Beside the first.
    repeated: u64,
    topic: Option<Box<str>>,
    remote: Option<SocketAddr>,
}

/// A refusal that is kept.
pub(crate) struct Repeated {
    key: Key,
    recent: Recent,
}

impl Flood {
    /// Whether it is to be told; if not, it is counted.
    pub(crate) fn admit(&mut self, refusal: &Refusal<'_>, now: Instant) -> bool {
        let mut key = Key::of(refusal);
        if self.recent.len() >= KINDS_MAX && !self.recent.contains_key(&key) {
            key.who = None;
        }
        let remote = key.who.as_ref().and(refusal.remote);
        let mut is_new = false;
        let recent = self.recent.entry(key).or_insert_with(|| {
            is_new = true;
            Recent {
                since: now,
                repeated: 0,
                topic: None,
                remote,
            }
        });
        if !is_new {
            recent.repeated += 1;
            recent.topic = refusal.topic.map(|topic| cut(topic).into());
        }
        is_new
    }

    /// Those whose window is over, with how many were not told.
    pub(crate) fn take_over(&mut self, now: Instant) -> Vec<(Repeated, u64)> {
        let over = self
            .recent
            .extract_if(|_, recent| now.saturating_duration_since(recent.since) >= WINDOW);
        over.filter(|(_, recent)| recent.repeated > 0)
            .map(|(key, recent)| {
                let times = recent.repeated;
                (Repeated { key, recent }, times)
            })
            .collect()
    }
}

impl Key {
    fn of(refusal: &Refusal<'_>) -> Self {
        Self {
            what: refusal.what,
            why: refusal.why,
            who: Some(Who {
                client: cut(refusal.client).into(),
                user: refusal.user.map(|user| cut(user).into()),
                address: refusal.remote.map(|remote| remote.ip()),
            }),
        }
    }
}

impl Repeated {
    /// The last of them.
    pub(crate) fn as_refusal(&self) -> Refusal<'_> {
        let who = self.key.who.as_ref();
        Refusal {
            what: self.key.what,
            why: self.key.why,
            client: who.map_or("", |who| &who.client),
            user: who.and_then(|who| who.user.as_deref()),
            remote: self.recent.remote,
            topic: self.recent.topic.as_deref(),
        }
    }
}

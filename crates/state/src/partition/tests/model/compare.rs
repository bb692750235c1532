//! What must be the same in the state and in its model.

use super::*;

impl Pair {
    pub(super) fn compare(&self) {
        let state = &self.real.state;
        assert_eq!(state.session_count(), self.model.sessions.len());
        let stored = self.model.sessions.values().filter(|it| it.is_durable);
        assert_eq!(state.stored_session_count(), stored.count());
        for client in CLIENTS {
            let real = self.real.session(client);
            let Some(model) = self.model.sessions.get(client) else {
                assert_eq!(real, None);
                continue;
            };
            compare_session(client, &real.unwrap(), model);
        }
        let waits = self.model.sessions.values().any(|session| {
            session.attached.is_none() && (session.ends_at.is_some() || session.delayed.is_some())
        });
        assert_eq!(state.has_timers(), waits);
        let sorted = |mut wills: Vec<Bytes>| {
            wills.sort();
            wills
        };
        assert_eq!(
            sorted(self.real.wills()),
            sorted(self.model.wills.clone()),
            "wills"
        );
        assert_eq!(self.real.released(), self.model.released);
        let retained = state.retained_matching(&filter("#"), None, 9);
        let payload = retained
            .first()
            .map(|it| it.publish.message.payload.clone());
        assert_eq!(payload, self.model.retained);
        self.compare_needed();
        for partition in [HERE, THERE] {
            let mut inflight = BTreeSet::new();
            for session in self.model.sessions.values() {
                let here = session.inflight.iter().filter(|(_, place, stage)| {
                    place.0 == partition && *stage == Stage::Published && !session.is_done(*place)
                });
                inflight.extend(here.map(|(_, (_, position), _)| *position));
            }
            let expected: Vec<_> = inflight.into_iter().collect();
            assert_eq!(state.inflight_in(partition), expected);
        }
    }

    fn compare_needed(&self) {
        for (name, partition) in [("t", HERE), ("u", THERE), ("other", HERE), ("other", THERE)] {
            let mut lowest = None;
            for session in self.model.sessions.values() {
                for (of, (qos, since)) in &session.subscriptions {
                    let Some(since) = since.get(&partition) else {
                        continue;
                    };
                    if *qos == QoS::AtMostOnce || !filter(of).matches(&topic(name)) {
                        continue;
                    }
                    let floor = session.floors.get(&partition).copied().unwrap_or_default();
                    let above = floor.max(*since);
                    lowest = Some(lowest.map_or(above, |lowest: Position| lowest.min(above)));
                }
            }
            assert_eq!(
                self.real.state.needed_above(partition, &topic(name)),
                lowest
            );
        }
    }
}

fn compare_session(client: &str, real: &StoredSession, model: &Model) {
    assert_eq!(real.session, model.incarnation);
    assert_eq!(real.attached, model.attached);
    assert_eq!(real.session_expiry_s, model.expiry_s);
    assert_eq!(real.lost, model.lost);
    assert_eq!(real.owner.as_deref(), model.owner);
    let subscriptions: BTreeMap<_, _> = real
        .subscriptions
        .iter()
        .map(|it| {
            let since = it.since.iter().copied().collect();
            (it.filter.as_str(), (it.options.qos, since))
        })
        .collect();
    assert_eq!(subscriptions, model.subscriptions);
    for index in 0..=POSITIONS {
        for partition in [HERE, THERE] {
            let place = (partition, at(index));
            let is_done = real
                .cursors
                .iter()
                .any(|it| it.partition == partition && it.is_done(place.1));
            let belongs = !is_done
                && subscriptions.values().any(|(qos, since)| {
                    *qos > QoS::AtMostOnce
                        && since.get(&partition).is_some_and(|since| *since < place.1)
                });
            assert_eq!(belongs, model.belongs(place), "{client} {place:?}");
        }
    }
    let inflight: Vec<_> = real
        .inflight
        .iter()
        .map(|it| (it.packet_id.number(), (it.partition, it.position), it.stage))
        .collect();
    // Only what is bound to something that is not done.
    let expected = model
        .inflight
        .iter()
        .filter(|(_, place, _)| !model.is_done(*place));
    assert_eq!(inflight, expected.copied().collect::<Vec<_>>(), "{client}");
}

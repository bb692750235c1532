//! What a run found, for people and as JSON.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::floor::Floor;
use super::load::{LoadArgs, Sample};

/// Totals of a run, warm-up and drain included.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Counts {
    pub(super) sent: u64,
    /// Acknowledged with an error.
    pub(super) refused: u64,
    /// Not acknowledged in the end.
    pub(super) unacknowledged: u64,
    /// Deliveries that did not come.
    pub(super) missing: u64,
    pub(super) duplicates: u64,
    pub(super) out_of_order: u64,
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Latencies {
    pub(super) count: u64,
    mean_ms: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

impl Latencies {
    /// Sums up a histogram of microseconds.
    pub(super) fn new(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            count: histogram.len(),
            mean_ms: histogram.mean() / 1000.0,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1000.0,
        }
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            mean_ms,
            p50_ms,
            p90_ms,
            p99_ms,
            p999_ms,
            max_ms,
            ..
        } = self;
        write!(
            f,
            "mean {mean_ms:.3}  p50 {p50_ms:.3}  p90 {p90_ms:.3}  p99 {p99_ms:.3}  p99.9 {p999_ms:.3}  \
             max {max_ms:.3} ms"
        )
    }
}

/// What the servers' processes used while it was measured.
#[derive(Clone, Copy, Debug, Serialize)]
struct Servers {
    cpu_us_per_delivered: f64,
    /// Of one core.
    cpu_percent: f64,
    resident_bytes: u64,
    resident_bytes_before: u64,
}

/// The result of a load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LoadReport {
    scenario: &'static str,
    publishers: usize,
    subscribers: usize,
    qos: u8,
    payload_bytes: u32,
    window: u16,
    rate: Option<f64>,
    measured_s: f64,
    sent_per_s: f64,
    delivered: u64,
    delivered_per_s: f64,
    delivered_bytes_per_s: f64,
    latency: Latencies,
    /// Of acknowledgements (PUBACK, PUBREC), with a rate only.
    acknowledged: Option<Latencies>,
    /// Below which no acknowledgement can be: on the machine before the load, and beside it.
    floor_before: Option<Floor>,
    floor_beside: Option<Floor>,
    servers: Option<Servers>,
    /// Of one core.
    generator_cpu_percent: f64,
    generator_cpu_us_per_delivered: f64,
    totals: Counts,
}

impl LoadReport {
    #[expect(
        clippy::too_many_arguments,
        reason = "one call, and each is another thing"
    )]
    pub(super) fn new(
        scenario: &'static str,
        publishers: usize,
        subscribers: usize,
        args: &LoadArgs,
        before: &Sample,
        after: &Sample,
        totals: Counts,
        deliveries: &Histogram<u64>,
        acknowledgements: &Histogram<u64>,
    ) -> Self {
        let measured = after.at - before.at;
        let per_s = |before: u64, after: u64| (after - before) as f64 / measured.as_secs_f64();
        let delivered = after.delivered - before.delivered;
        let generator_cpu = after.generator_cpu.saturating_sub(before.generator_cpu);
        let servers = before.servers.zip(after.servers).map(|(before, after)| {
            let cpu = after.cpu.saturating_sub(before.cpu);
            Servers {
                cpu_us_per_delivered: us_per_message(cpu, delivered),
                cpu_percent: percent(cpu, measured),
                resident_bytes: after.resident_bytes,
                resident_bytes_before: before.resident_bytes,
            }
        });
        Self {
            scenario,
            publishers,
            subscribers,
            qos: args.qos.into(),
            payload_bytes: args.size,
            window: args.window,
            rate: args.rate,
            measured_s: measured.as_secs_f64(),
            sent_per_s: per_s(before.sent, after.sent),
            delivered,
            delivered_per_s: per_s(before.delivered, after.delivered),
            delivered_bytes_per_s: per_s(before.delivered_bytes, after.delivered_bytes),
            latency: Latencies::new(deliveries),
            acknowledged: (!acknowledgements.is_empty()).then(|| Latencies::new(acknowledgements)),
            floor_before: None,
            floor_beside: None,
            servers,
            generator_cpu_percent: percent(generator_cpu, measured),
            generator_cpu_us_per_delivered: us_per_message(generator_cpu, delivered),
            totals,
        }
    }

    /// The same, with what was measured of the machine.
    pub(super) fn with_floors(self, before: Option<Floor>, beside: Option<Floor>) -> Self {
        Self {
            floor_before: before,
            floor_beside: beside,
            ..self
        }
    }

    /// Whether everything arrived as the QoS promises: at QoS 0 nothing is.
    pub(super) const fn kept_promises(&self) -> bool {
        let Counts {
            unacknowledged,
            missing,
            duplicates,
            out_of_order,
            ..
        } = self.totals;
        match self.qos {
            0 => true,
            1 => missing == 0 && unacknowledged == 0,
            _ => missing == 0 && unacknowledged == 0 && duplicates == 0 && out_of_order == 0,
        }
    }
}

fn us_per_message(cpu: Duration, delivered: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / (delivered.max(1) as f64)
}

fn percent(cpu: Duration, measured: Duration) -> f64 {
    100.0 * cpu.as_secs_f64() / measured.as_secs_f64()
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            scenario,
            publishers,
            subscribers,
            qos,
            payload_bytes,
            window,
            ..
        } = self;
        write!(
            f,
            "{scenario}: {publishers} publishers, {subscribers} subscribers, QoS {qos}, {payload_bytes} B, \
             window {window}"
        )?;
        if let Some(rate) = self.rate {
            write!(f, ", {rate} messages/s wanted")?;
        }
        writeln!(f, ", {:.1} s", self.measured_s)?;
        writeln!(f, "  sent       {:>12.0} /s", self.sent_per_s)?;
        writeln!(
            f,
            "  delivered  {:>12.0} /s   {:.2} MB/s",
            self.delivered_per_s,
            self.delivered_bytes_per_s / 1e6
        )?;
        writeln!(f, "  latency    {}", self.latency)?;
        if let Some(acknowledged) = &self.acknowledged {
            writeln!(f, "  acks       {acknowledged}")?;
            let floors = [
                ("floor before", &self.floor_before),
                ("floor beside", &self.floor_beside),
            ];
            for (name, floor) in floors {
                let Some(floor) = floor else { continue };
                let times = acknowledged.p50_ms / floor.sum_ms;
                writeln!(
                    f,
                    "  {name} {floor}: the median of the acks is {times:.1} times that"
                )?;
            }
        }
        if let Some(servers) = &self.servers {
            writeln!(
                f,
                "  servers    {:.2} us CPU per delivered message, {:.0} % of a core, {:.1} MiB resident \
                 ({:.1} before)",
                servers.cpu_us_per_delivered,
                servers.cpu_percent,
                mib(servers.resident_bytes),
                mib(servers.resident_bytes_before)
            )?;
        }
        writeln!(
            f,
            "  generator  {:.2} us CPU per delivered message, {:.0} % of a core",
            self.generator_cpu_us_per_delivered, self.generator_cpu_percent
        )?;
        let Counts {
            sent,
            refused,
            unacknowledged,
            missing,
            duplicates,
            out_of_order,
        } = self.totals;
        write!(
            f,
            "  in all     {sent} sent, {refused} refused, {unacknowledged} not acknowledged, {missing} missing, \
             {duplicates} duplicates, {out_of_order} out of order"
        )
    }
}

/// Bytes as people read them.
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::time::Instant;

    use magpie_codec::QoS;

    use super::*;
    use crate::bench::flow::histogram;
    use crate::bench::process::Usage;

    fn report(totals: Counts, qos: QoS) -> LoadReport {
        let args = LoadArgs {
            qos,
            size: 64,
            window: 100,
            rate: None,
            duration: Duration::from_secs(2),
            warmup: Duration::ZERO,
            durable: false,
        };
        let at = Instant::now();
        let before = Sample {
            at,
            sent: 1000,
            delivered: 900,
            delivered_bytes: 0,
            servers: Some(Usage {
                cpu: Duration::from_secs(1),
                resident_bytes: 1 << 20,
                disk_bytes: 0,
            }),
            generator_cpu: Duration::ZERO,
        };
        let after = Sample {
            at: at + Duration::from_secs(2),
            sent: 201_000,
            delivered: 200_900,
            delivered_bytes: 12_800_000,
            servers: Some(Usage {
                cpu: Duration::from_secs(2),
                resident_bytes: 3 << 20,
                disk_bytes: 0,
            }),
            generator_cpu: Duration::from_millis(100),
        };
        let mut latencies = histogram().unwrap();
        latencies.record_n(1000, 99).unwrap();
        latencies.record(5000).unwrap();
        let acks = histogram().unwrap();
        LoadReport::new(
            "pubsub", 50, 50, &args, &before, &after, totals, &latencies, &acks,
        )
    }

    #[test]
    fn rates_and_costs_are_those_of_the_measured_time() {
        let text = report(
            Counts {
                sent: 300_000,
                ..Counts::default()
            },
            QoS::AtMostOnce,
        )
        .to_string();
        for part in [
            "100000 /s   6.40 MB/s",
            "p50 1.000  p90 1.000  p99 1.000  p99.9 5.",
            "5.00 us CPU per delivered message, 50 % of a core, 3.0 MiB resident (1.0 before)",
            "0.50 us CPU per delivered message, 5 % of a core",
            "300000 sent, 0 refused",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn json_has_the_same_figures() {
        let report = report(
            Counts {
                missing: 3,
                ..Counts::default()
            },
            QoS::AtLeastOnce,
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["delivered_per_s"], 100_000.0);
        assert_eq!(json["servers"]["cpu_us_per_delivered"], 5.0);
        assert_eq!(json["totals"]["missing"], 3);
        assert_eq!(json["latency"]["count"], 100);
    }

    #[test]
    fn what_the_qos_promises_is_checked() {
        let doubled = Counts {
            duplicates: 1,
            ..Counts::default()
        };
        let lost = Counts {
            missing: 1,
            ..Counts::default()
        };
        let kept = |totals, qos| report(totals, qos).kept_promises();
        assert!(kept(lost, QoS::AtMostOnce));
        assert!(kept(doubled, QoS::AtLeastOnce));
        assert!(!kept(lost, QoS::AtLeastOnce));
        assert!(!kept(doubled, QoS::ExactlyOnce));
    }
}

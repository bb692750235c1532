//! Who may connect at all, before a byte of MQTT is read: how many at once, and how many per second.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::bucket::Bucket;

/// Addresses in one half of the table.
const ADDRESSES_MAX: usize = 16 * 1024;

/// Connections per second, of the node and of each address.
pub(crate) struct Rates {
    of_node: Option<Mutex<Bucket>>,
    of_addresses: Option<Mutex<Addresses>>,
}

/// Which rate was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// That of the node.
    Node,
    /// That of the client's address.
    Address,
}

impl Rates {
    /// 0 is no bound.
    pub(crate) fn new(of_node: u32, of_address: u32) -> Self {
        let now = Instant::now();
        Self {
            of_node: (of_node > 0).then(|| Mutex::new(Bucket::new(of_node.into(), now))),
            of_addresses: (of_address > 0).then(|| Mutex::new(Addresses::new(of_address))),
        }
    }

    /// Counts a connection of the node.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Exceeded> {
        match &self.of_node {
            Some(bucket) if !lock(bucket).try_take(1, now) => Err(Exceeded::Node),
            _ => Ok(()),
        }
    }

    /// Counts a connection of an address.
    pub(crate) fn admit_address(&self, address: IpAddr, now: Instant) -> Result<(), Exceeded> {
        match &self.of_addresses {
            Some(addresses) if !lock(addresses).take(address, now) => Err(Exceeded::Address),
            _ => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bucket per address, in a table of two halves: when the newer is full, the older is forgotten. Whoever has so many addresses that this
/// helps is bounded by the rate of the node.
struct Addresses {
    per_second: u32,
    newer: HashMap<IpAddr, Bucket>,
    older: HashMap<IpAddr, Bucket>,
}

impl Addresses {
    fn new(per_second: u32) -> Self {
        Self {
            per_second,
            newer: HashMap::new(),
            older: HashMap::new(),
        }
    }

    fn take(&mut self, address: IpAddr, now: Instant) -> bool {
        let key = holder(address);
        if !self.newer.contains_key(&key) {
            if self.newer.len() >= ADDRESSES_MAX {
                self.older = std::mem::take(&mut self.newer);
            }
            let known = self.older.remove(&key);
            let bucket = known.unwrap_or_else(|| Bucket::new(self.per_second.into(), now));
            self.newer.insert(key, bucket);
        }
        self.newer
            .get_mut(&key)
            .is_none_or(|bucket| bucket.try_take(1, now))
    }
}

/// Who has an address: of IPv6, everybody gets 64 bits of them.
pub(crate) fn holder(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_is_admitted_and_then_the_rate() {
        let rates = Rates::new(10, 0);
        let now = Instant::now();
        let admitted = |at: Instant| (0..100).filter(|_| rates.admit(at).is_ok()).count();
        assert_eq!(admitted(now), 10);
        assert_eq!(admitted(now), 0);
        assert_eq!(admitted(now + Duration::from_millis(550)), 5);
        assert_eq!(admitted(now + Duration::from_secs(3600)), 10);
    }

    #[test]
    fn each_address_has_its_own_rate() {
        let now = Instant::now();
        let rates = Rates::new(0, 1);
        let check = |text: &str, expected: Result<(), Exceeded>| {
            assert_eq!(rates.admit_address(address(text), now), expected, "{text}");
        };
        check("192.0.2.1", Ok(()));
        check("192.0.2.1", Err(Exceeded::Address));
        check("::ffff:192.0.2.1", Err(Exceeded::Address));
        check("192.0.2.2", Ok(()));
        check("2001:db8::1", Ok(()));
        check("2001:db8::ffff:1", Err(Exceeded::Address));
        check("2001:db8:0:1::1", Ok(()));
    }

    #[test]
    fn the_table_is_bounded() {
        let now = Instant::now();
        let mut addresses = Addresses::new(1);
        assert!(addresses.take(address("192.0.2.1"), now));
        for number in 0..5 * ADDRESSES_MAX as u32 {
            addresses.take(std::net::Ipv4Addr::from(number).into(), now);
            assert!(addresses.newer.len() <= ADDRESSES_MAX);
            assert!(addresses.older.len() <= ADDRESSES_MAX);
        }
    }

    #[test]
    fn no_bound_is_no_bound() {
        let rates = Rates::new(0, 0);
        for _ in 0..1000 {
            let now = Instant::now();
            assert_eq!(rates.admit(now), Ok(()));
            assert_eq!(rates.admit_address(address("192.0.2.1"), now), Ok(()));
        }
    }
}

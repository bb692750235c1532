//! Bans: who may not come at all.

// The addresses of `core` are plain numbers: there is no socket there.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::name::check_name;

/// Longest reason.
pub(crate) const REASON_BYTES_MAX: usize = 256;

/// Why somebody is banned, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// For operators; clients do not see it.
    pub reason: String,
    /// Milliseconds since 1970 from which on it is over; `None`: never.
    pub until_ms: Option<u64>,
}

/// Who is banned. As text `client:ID`, `user:NAME`, `address:IP`, `network:IP/BITS`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum BanTarget {
    /// Whoever has this client id.
    Client(String),
    /// Whoever proves to be this user.
    User(String),
    /// Whoever comes from this address. An IPv4 address that is written as IPv6 is the IPv4 address.
    Address(IpAddr),
    /// Whoever comes from this network.
    Network(Network),
}

/// The addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// All further bits are zero.
    address: IpAddr,
    bits: u8,
}

impl Ban {
    /// Whether it still holds at `now_ms`.
    #[must_use]
    pub fn holds(&self, now_ms: u64) -> bool {
        self.until_ms.is_none_or(|until| now_ms < until)
    }
}

impl Network {
    /// The network of that many leading bits that `address` is in; `None` if the address has fewer bits.
    #[must_use]
    pub fn of(address: IpAddr, bits: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits.into())?);
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask.unwrap_or(0)))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128_u32.checked_sub(bits.into())?);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask.unwrap_or(0)))
            }
        };
        Some(Self { address, bits })
    }

    /// Number of leading bits.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether these are IPv4 addresses.
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.address.is_ipv4()
    }
}

impl BanTarget {
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Client(name) | Self::User(name) => Ok(check_name(name)?),
            Self::Address(_) | Self::Network(_) => Ok(()),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl fmt::Display for BanTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(id) => write!(f, "client:{id}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Address(address) => write!(f, "address:{address}"),
            Self::Network(network) => write!(f, "network:{network}"),
        }
    }
}

impl FromStr for BanTarget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::BanTarget(text.to_owned());
        let (kind, what) = text.split_once(':').ok_or_else(wrong)?;
        let address = |address: &str| {
            let address: Result<IpAddr, _> = address.parse();
            address.map_err(|_| wrong())
        };
        let target = match kind {
            "client" => Self::Client(what.to_owned()),
            "user" => Self::User(what.to_owned()),
            "address" => Self::Address(address(what)?.to_canonical()),
            "network" => {
                let (begin, bits) = what.split_once('/').ok_or_else(wrong)?;
                let bits = bits.parse().map_err(|_| wrong())?;
                let begin = address(begin)?;
                // As addresses are looked up: what is IPv4 in IPv6 is IPv4.
                let (begin, bits) = match begin.to_canonical() {
                    canonical if canonical == begin => (begin, bits),
                    canonical if bits >= 96 => (canonical, bits - 96),
                    _ => return Err(wrong()),
                };
                Self::Network(Network::of(begin, bits).ok_or_else(wrong)?)
            }
            _ => return Err(wrong()),
        };
        target.check()?;
        Ok(target)
    }
}

impl From<BanTarget> for String {
    fn from(target: BanTarget) -> Self {
        target.to_string()
    }
}

impl TryFrom<String> for BanTarget {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

//! Client addresses: which count as one, how often each was refused, and which are known to send good webhooks.
//!
//! Only refused requests count against an address: a provider sends all its orders from a few. An address that lately sent a
//! verified, new webhook is known and never blocked: behind it (a provider's gateway, a load balancer that `TRUSTED_PROXIES`
//! does not name) are other senders than the one that caused the refusals, and their orders count for more than the cost of
//! checking signatures. Pure; the time is passed in.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroUsize,
    str::FromStr,
};

use lru::LruCache;

use crate::config::Rule;

/// Most addresses with counted refusals, some 100 bytes each; of more, those that were refused longest ago are
/// forgotten. A crowd that is larger than this never comes to its limit, but costs no more either.
const MAX_COUNTED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// Known addresses that are kept; all providers together have some dozens.
const MAX_KNOWN: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Addresses of the backend that are kept.
const MAX_HOLDERS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// How long an address is known after its last verified webhook, in milliseconds: over a quiet night.
pub const KNOWN_FOR_MS: u64 = 24 * 3600 * 1000;
/// Interval of reports that it is still known: long, because each is written.
const TELL_AGAIN_MS: u64 = 3600 * 1000;
/// Bits of an IPv6 address that one customer's network has; the rest it may choose as it likes.
const NETWORK_BITS: u8 = 64;
/// Bits of the IPv6 prefix that one customer may be given as a whole: 65,536 networks of [`NETWORK_BITS`].
const SITE_BITS: u8 = 48;
/// How many times as many refused requests a site may make as one of its networks: at most a few of them belong to other sites.
const SITE_TIMES: u64 = 8;

/// What counts as one address: an IPv4 address, or the /64 of an IPv6 one; and the /48 around it, which is counted as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Zero after its bits.
    ip: IpAddr,
    /// How many count; of IPv4 all.
    bits: u8,
}

impl Address {
    /// That a client counts as.
    pub fn of(client: IpAddr) -> Self {
        match client.to_canonical() {
            IpAddr::V6(v6) => Self::network(v6, NETWORK_BITS),
            ip @ IpAddr::V4(_) => Self { ip, bits: 32 },
        }
    }

    fn network(v6: Ipv6Addr, bits: u8) -> Self {
        let mask = u128::MAX << (128 - u32::from(bits));
        let ip = IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask));
        Self { ip, bits }
    }

    /// The /48 around the /64 of an IPv6 address; none of an IPv4 one.
    pub fn site(self) -> Option<Self> {
        match self.ip {
            IpAddr::V6(v6) if self.bits == NETWORK_BITS => Some(Self::network(v6, SITE_BITS)),
            _ => None,
        }
    }

    /// Whether it belongs to a private network: then it is most likely one of the operator's proxies.
    pub fn is_local(self) -> bool {
        match self.ip {
            IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
            // Only the /64 prefix is kept, so ::1 is :: here.
            IpAddr::V6(v6) => v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local(),
        }
    }

    /// As a token of a subject: its bytes in hexadecimal.
    pub fn token(self) -> String {
        match self.ip {
            IpAddr::V4(v4) => format!("{:08x}", v4.to_bits()),
            IpAddr::V6(v6) => {
                let digits = usize::from(self.bits) / 4;
                format!("{:0digits$x}", v6.to_bits() >> (128 - u32::from(self.bits)))
            }
        }
    }

    /// Back from its token.
    pub fn from_token(token: &str) -> Option<Self> {
        let bits = match token.len() {
            8 => {
                let ip = IpAddr::V4(u32::from_str_radix(token, 16).ok()?.into());
                return Some(Self { ip, bits: 32 });
            }
            12 => SITE_BITS,
            16 => NETWORK_BITS,
            _ => return None,
        };
        let network = u128::from(u64::from_str_radix(token, 16).ok()?);
        let v6 = Ipv6Addr::from_bits(network << (128 - u32::from(bits)));
        Some(Self::network(v6, bits))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(v4) => write!(f, "{v4}"),
            IpAddr::V6(v6) => write!(f, "{v6}/{}", self.bits),
        }
    }
}

impl FromStr for Address {
    type Err = std::net::AddrParseError;

    /// Any address, and what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Some(site) = text.strip_suffix("/48") {
            return site.parse().map(|v6| Self::network(v6, SITE_BITS));
        }
        let bare = text.strip_suffix("/64").filter(|bare| bare.contains(':'));
        bare.unwrap_or(text).parse().map(Self::of)
    }
}

/// Refusals of one address in its window.
#[derive(Debug, Clone, Copy)]
struct FailureCount {
    window_ends_ms: u64,
    refused: u64,
}

#[derive(Debug, Clone, Copy)]
struct KnownAddress {
    verified_ms: u64,
    told_ms: u64,
}

/// An address has come to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    /// Requests that were refused.
    pub refused: u64,
    /// End of the block.
    pub until_ms: u64,
}

/// See the module.
pub struct Addresses {
    rule: Rule,
    counts: LruCache<Address, FailureCount>,
    known: LruCache<Address, KnownAddress>,
    /// Addresses that showed the service token, and when; their refused requests still count.
    holders: LruCache<Address, u64>,
}

impl Addresses {
    /// With this limit for each.
    pub fn new(rule: Rule) -> Self {
        Self {
            rule,
            counts: LruCache::new(MAX_COUNTED),
            known: LruCache::new(MAX_KNOWN),
            holders: LruCache::new(MAX_HOLDERS),
        }
    }

    /// A request was refused; says where that was the last one that the address may make, and where it is the last one of
    /// the /48 around it. A window begins with the first.
    pub fn refused(&mut self, address: Address, now_ms: u64) -> Vec<(Address, TooMany)> {
        if self.is_known(address, now_ms) {
            return Vec::new();
        }
        let own = self.count(address, self.rule.points, now_ms);
        let site = address.site();
        let around = site.and_then(|site| self.count(site, self.rule.points.saturating_mul(SITE_TIMES), now_ms));
        let own = own.map(|too_many| (address, too_many));
        own.into_iter().chain(site.zip(around)).collect()
    }

    fn count(&mut self, address: Address, points: u64, now_ms: u64) -> Option<TooMany> {
        let window_ends_ms = now_ms + ms(self.rule.window);
        let fresh = FailureCount {
            window_ends_ms,
            refused: 0,
        };
        let count = self.counts.get_or_insert_mut(address, || fresh);
        if count.window_ends_ms <= now_ms {
            *count = fresh;
        }
        count.refused += 1;
        if count.refused < points {
            return None;
        }
        let count = *count;
        self.counts.pop(&address);
        let until_ms = if self.rule.block.is_zero() {
            count.window_ends_ms
        } else {
            now_ms + ms(self.rule.block)
        };
        Some(TooMany {
            refused: count.refused,
            until_ms,
        })
    }

    /// A webhook of this address was verified and new. True if the others should know.
    pub fn verified(&mut self, address: Address, now_ms: u64) -> bool {
        if let Some(known) = self.known.get_mut(&address) {
            known.verified_ms = known.verified_ms.max(now_ms);
            if now_ms < known.told_ms + TELL_AGAIN_MS {
                return false;
            }
            known.told_ms = now_ms;
            return true;
        }
        self.learn(address, now_ms);
        true
    }

    /// Another instance knows this address.
    pub fn learn(&mut self, address: Address, verified_ms: u64) {
        self.counts.pop(&address);
        let known = self.known.get_or_insert_mut(address, || KnownAddress {
            verified_ms,
            told_ms: verified_ms,
        });
        known.verified_ms = known.verified_ms.max(verified_ms);
        known.told_ms = known.told_ms.max(verified_ms);
    }

    /// Whether this address lately sent a webhook that was verified.
    pub fn is_known(&self, address: Address, now_ms: u64) -> bool {
        let known = self.known.peek(&address);
        known.is_some_and(|known| now_ms < known.verified_ms + KNOWN_FOR_MS)
    }

    /// This address showed the service token.
    pub fn showed_token(&mut self, address: Address, now_ms: u64) {
        self.holders.put(address, now_ms);
    }

    /// Whether this address lately showed the service token.
    pub fn holds_token(&self, address: Address, now_ms: u64) -> bool {
        let shown = self.holders.peek(&address);
        shown.is_some_and(|shown| now_ms < shown + KNOWN_FOR_MS)
    }

    /// Whether room is kept for this address: it is known, or lately showed the service token.
    pub fn has_room(&self, address: Address, now_ms: u64) -> bool {
        self.holds_token(address, now_ms) || self.is_known(address, now_ms)
    }

    /// Forgets how often it was refused.
    pub fn pardon(&mut self, address: Address) {
        self.counts.pop(&address);
    }
}

fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    impl Addresses {
        /// Of the address itself.
        fn own(&mut self, address: Address, now_ms: u64) -> Option<TooMany> {
            let found = self.refused(address, now_ms);
            found
                .into_iter()
                .find_map(|(who, too_many)| (who == address).then_some(too_many))
        }
    }

    fn addresses(points: u64, block: u64) -> Addresses {
        Addresses::new(Rule {
            points,
            window: Duration::from_secs(60),
            block: Duration::from_secs(block),
        })
    }

    #[test]
    fn addresses_that_count_as_one() {
        for (text, shown, token) in [
            ("203.0.113.9", "203.0.113.9", "cb007109"),
            ("::ffff:203.0.113.9", "203.0.113.9", "cb007109"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "20010db800010002"),
            ("2001:db8:1:2::/64", "2001:db8:1:2::/64", "20010db800010002"),
            ("::1", "::/64", "0000000000000000"),
            ("2001:db8:1:2::/48", "2001:db8:1::/48", "20010db80001"),
        ] {
            let one = address(text);
            assert_eq!((one.to_string().as_str(), one.token().as_str()), (shown, token));
            assert_eq!(Address::from_token(token), Some(one));
        }
        assert_ne!(address("2001:db8:1:2::1"), address("2001:db8:1:3::1"));
        for text in ["", "careem", "1.2.3", "1.2.3.4/64", "1.2.3.4/48", "2001:db8::/32"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        for token in ["", "cb0071", "zz007109", "+b007109x", "cb007109cb007109cb"] {
            assert_eq!(Address::from_token(token), None, "{token}");
        }
    }

    #[test]
    fn private_addresses_are_recognised() {
        for text in ["10.1.2.3", "127.0.0.1", "192.168.0.1", "::1", "fd00::1", "fe80::1"] {
            assert!(address(text).is_local(), "{text}");
        }
        for text in ["203.0.113.9", "2001:db8::1"] {
            assert!(!address(text).is_local(), "{text}");
        }
    }

    #[test]
    fn the_last_allowed_refusal_starts_the_block() {
        let (mut addresses, one) = (addresses(3, 300), address("203.0.113.9"));
        assert_eq!(addresses.own(one, NOW), None);
        assert_eq!(addresses.own(one, NOW + 1), None);
        assert_eq!(addresses.own(address("203.0.113.10"), NOW + 1), None);
        let expected = TooMany {
            refused: 3,
            until_ms: NOW + 2 + 300_000,
        };
        assert_eq!(addresses.own(one, NOW + 2), Some(expected));
        // After that the address is counted anew.
        assert_eq!(addresses.own(one, NOW + 300_003), None);
    }

    #[test]
    fn an_address_with_the_token_may_still_be_blocked() {
        let (mut addresses, one) = (addresses(2, 300), address("203.0.113.9"));
        addresses.showed_token(one, NOW);
        assert!(addresses.has_room(one, NOW + KNOWN_FOR_MS - 1) && !addresses.has_room(one, NOW + KNOWN_FOR_MS));
        assert!(!addresses.is_known(one, NOW));
        assert_eq!(addresses.own(one, NOW), None);
        assert!(addresses.own(one, NOW).is_some());
        addresses.verified(one, NOW + KNOWN_FOR_MS);
        assert!(addresses.has_room(one, NOW + KNOWN_FOR_MS));
    }

    #[test]
    fn many_networks_of_one_site_are_one() {
        let mut addresses = addresses(3, 300);
        let mut blocked = Vec::new();
        // Two refused requests of each /64, which is within the limit of each.
        for number in 0..20 {
            let one = address(&format!("2001:db8:7:{number}::1"));
            blocked.extend((0..2).flat_map(|_| addresses.refused(one, NOW)));
        }
        let blocked: Vec<_> = blocked
            .iter()
            .map(|(who, too_many)| (who.to_string(), too_many.refused))
            .collect();
        assert_eq!(blocked, [("2001:db8:7::/48".to_owned(), 24)]);
        assert_eq!(address("203.0.113.9").site(), None);
        assert_eq!(address("2001:db8:7::/48").site(), None);
    }

    #[test]
    fn a_window_ends() {
        let (mut addresses, one) = (addresses(2, 0), address("203.0.113.9"));
        assert_eq!(addresses.own(one, NOW), None);
        assert_eq!(addresses.own(one, NOW + 60_000), None);
        let too_many = addresses.own(one, NOW + 60_001).unwrap();
        // Without a block the refusal ends with the window.
        assert_eq!(too_many.until_ms, NOW + 120_000);
    }

    #[test]
    fn a_pardon_begins_anew() {
        let (mut addresses, one) = (addresses(2, 300), address("203.0.113.9"));
        addresses.own(one, NOW);
        addresses.pardon(one);
        assert_eq!(addresses.own(one, NOW), None);
        assert!(addresses.own(one, NOW).is_some());
    }

    #[test]
    fn an_address_with_verified_webhooks_is_never_blocked() {
        let (mut addresses, one) = (addresses(2, 300), address("203.0.113.9"));
        addresses.own(one, NOW);
        assert!(addresses.verified(one, NOW), "news");
        assert!(!addresses.verified(one, NOW + TELL_AGAIN_MS - 1), "known already");
        assert!(addresses.verified(one, NOW + TELL_AGAIN_MS), "said again");
        let last = NOW + TELL_AGAIN_MS;
        for _ in 0..10 {
            assert_eq!(addresses.own(one, last + KNOWN_FOR_MS - 1), None);
        }
        // After a day without a verified webhook the address is unknown again.
        assert_eq!(addresses.own(one, last + KNOWN_FOR_MS), None);
        assert!(addresses.own(one, last + KNOWN_FOR_MS).is_some());
    }

    #[test]
    fn addresses_known_elsewhere_are_known_here() {
        let (mut addresses, one) = (addresses(1, 300), address("203.0.113.9"));
        addresses.learn(one, NOW);
        assert_eq!(addresses.own(one, NOW + 1), None);
        // An older report changes nothing.
        addresses.learn(one, NOW - KNOWN_FOR_MS);
        assert!(addresses.is_known(one, NOW + 1));
    }

    #[test]
    fn remembered_addresses_are_limited() {
        let mut addresses = addresses(3, 300);
        addresses.verified(address("203.0.113.9"), NOW);
        for number in 0..100_000u32 {
            addresses.own(Address::of(IpAddr::V4(number.into())), NOW);
        }
        assert_eq!(addresses.counts.len(), MAX_COUNTED.get());
        assert!(addresses.is_known(address("203.0.113.9"), NOW));
        for number in 0..100_000u32 {
            addresses.verified(Address::of(IpAddr::V4(number.into())), NOW);
        }
        assert_eq!(addresses.known.len(), MAX_KNOWN.get());
    }

    proptest! {
        #[test]
        fn a_token_reads_back_as_its_address(bits in any::<u128>(), is_v6 in any::<bool>()) {
            let ip = if is_v6 {
                IpAddr::V6(bits.into())
            } else {
                IpAddr::V4((bits as u32).into())
            };
            let one = Address::of(ip);
            prop_assert_eq!(Address::from_token(&one.token()), Some(one));
            prop_assert_eq!(one.to_string().parse::<Address>().unwrap(), one);
        }

        /// However its refusals are spread in time, an address is blocked with its n-th in a window and not before.
        #[test]
        fn blocked_with_the_nth(points in 1u64..20, gaps in prop::collection::vec(0u64..30_000, 1..100)) {
            let (mut addresses, one) = (addresses(points, 300), address("203.0.113.9"));
            let (mut now, mut window_ends, mut count) = (NOW, 0, 0);
            for gap in gaps {
                now += gap;
                if count == 0 || window_ends <= now {
                    (window_ends, count) = (now + 60_000, 0);
                }
                count += 1;
                let blocked = addresses.own(one, now);
                prop_assert_eq!(blocked.is_some(), count == points);
                if blocked.is_some() {
                    count = 0;
                }
            }
        }
    }
}

//! Selects the refusals that go to the stream: few in all, and fewer of one address. Pure; time is passed in.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Samples a second that one instance lets through for long: some 430,000 a day of about 400 bytes, of which the stream
/// keeps the last.
const PER_SECOND: f64 = 5.0;
/// Samples at once, after a quiet time: what a broken deployment of a provider makes in a few seconds.
const BURST: f64 = 50.0;
/// Time between two samples of one address: who hammers is not to hide who else is there.
const PER_ADDRESS: Duration = Duration::from_secs(1);
/// Addresses that are remembered before old ones are forgotten; never more than the burst and a second's samples are new.
const MAX_ADDRESSES: usize = 512;

/// A bucket of samples, and when each address had its last.
#[derive(Debug)]
pub struct Sampler {
    samples: f64,
    filled: Instant,
    last: HashMap<IpAddr, Instant>,
}

impl Sampler {
    /// A full one.
    pub fn new(now: Instant) -> Self {
        Self {
            samples: BURST,
            filled: now,
            last: HashMap::new(),
        }
    }

    /// Whether a refusal of this address is taken.
    pub fn takes(&mut self, client: IpAddr, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled);
        self.samples = elapsed.as_secs_f64().mul_add(PER_SECOND, self.samples).min(BURST);
        self.filled = now;
        if self.samples < 1.0 {
            return false;
        }
        let is_recent = |last: &Instant| now.saturating_duration_since(*last) < PER_ADDRESS;
        let network = network(client);
        if self.last.get(&network).is_some_and(is_recent) {
            return false;
        }
        if self.last.len() >= MAX_ADDRESSES {
            self.last.retain(|_, last| is_recent(last));
        }
        self.last.insert(network, now);
        self.samples -= 1.0;
        true
    }
}

/// The owner of an address: with IPv6 each site has a network of 2^64.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn a_flood_becomes_a_few_samples() {
        let began = Instant::now();
        let mut sampler = Sampler::new(began);
        let at = |ms: u64| began + Duration::from_millis(ms);
        // A million refusals in ten seconds, each of another address.
        let taken = (0..1_000_000)
            .filter(|n| sampler.takes(address(*n), at(u64::from(*n) / 100)))
            .count();
        assert!((95..=100).contains(&taken), "{taken}");
        // A quiet time does not raise the number above its maximum.
        let night = began + Duration::from_secs(8 * 3600);
        let taken = (0..1000).filter(|n| sampler.takes(address(2_000_000 + n), night));
        assert_eq!(taken.count(), 50);
        assert!(sampler.last.len() <= MAX_ADDRESSES, "{}", sampler.last.len());
    }

    #[test]
    fn one_address_does_not_hide_the_others() {
        let began = Instant::now();
        let mut sampler = Sampler::new(began);
        let taken = (0..10_000).filter(|_| sampler.takes(address(1), began)).count();
        assert_eq!(taken, 1);
        assert!(sampler.takes(address(2), began));
        assert!(!sampler.takes(address(1), began + Duration::from_millis(999)));
        assert!(sampler.takes(address(1), began + Duration::from_secs(1)));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let now = Instant::now();
        let mut sampler = Sampler::new(now);
        let mut takes = |text: &str| sampler.takes(text.parse().unwrap(), now);
        assert!(takes("2001:db8::1"));
        assert!(!takes("2001:db8::ffff:1"));
        assert!(takes("2001:db8:0:1::1"));
        assert!(takes("192.0.2.1"));
        assert!(!takes("::ffff:192.0.2.1"));
        // A clock that goes backwards removes nothing.
        assert!(sampler.takes("192.0.2.2".parse().unwrap(), now - Duration::from_secs(5)));
    }

    #[test]
    fn old_addresses_are_forgotten() {
        let began = Instant::now();
        let mut sampler = Sampler::new(began);
        // An hour of refusals, each from another address, at the rate at which samples are allowed.
        let every = Duration::from_secs(1).div_f64(PER_SECOND);
        let taken = (0..18_000)
            .filter(|n| sampler.takes(address(*n), began + every * *n))
            .count();
        assert_eq!(taken, 18_000);
        assert!(sampler.last.len() <= MAX_ADDRESSES, "{}", sampler.last.len());
    }
}

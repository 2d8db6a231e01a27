use super::{taken::QuotaLoad, *};
use crate::{
    config::{Config, Environment},
    event::Principal,
    provider::{Catalogue, Provider as _, declarative::Declarative},
    registry::{ProviderMetrics, allow_list::AllowList},
    verification::{Keyring, Keys, Scheme},
};

/// A new webhook of the provider.
const ONE: QuotaLoad<'_> = QuotaLoad {
    principal: &Principal::of_backend(),
    bytes: 1,
    is_repeat: false,
};

pub(super) fn limits(provider: &str, address: &str) -> Limits {
    let env: Environment = [
        ("SERVICE_TOKEN", "token"),
        ("RATE_LIMIT_CAREEM", provider),
        ("RATE_LIMIT_ADDRESS", address),
    ]
    .into_iter()
    .collect();
    let limits = Limits::new(&Config::from_environment(&env).unwrap().limits);
    limits.is_informed.store(true, Ordering::Relaxed);
    limits
}

pub(super) fn careem(networks: &[&str]) -> Enabled {
    let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    let file = Arc::clone(Catalogue::shipped().get("careem").unwrap().file());
    let provider = Declarative::new(file, None);
    Enabled {
        outbound: None,
        scheme: provider.scheme().clone(),
        provider: Box::new(provider),
        name: "careem".into(),
        keys: Keyring::new(Keys::new()),
        branch_secrets: false,
        kept_headers: Default::default(),
        keep_signature: false,
        allow_list: AllowList::new(networks),
        response_wait: None,
        forward_test_orders: false,
        observation: None,
        measured: ProviderMetrics::of(&"careem".into()),
    }
}

fn client(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Refuses until nothing more is counted.
fn refuse(limits: &Limits, provider: &Enabled, client: IpAddr, times: usize) {
    for _ in 0..times {
        limits.note_refused(Some(provider), client);
    }
}

fn take_all(limits: &Limits, provider: &Enabled) -> usize {
    (0..100).filter(|_| limits.take(provider, ONE).is_ok()).count()
}

#[test]
fn refused_requests_cost_the_provider_nothing() {
    let (limits, careem) = (limits("5/1h", "3/60s/300s"), careem(&[]));
    let (stranger, good) = (client("203.0.113.9"), client("203.0.113.10"));
    refuse(&limits, &careem, stranger, 2);
    assert_eq!(limits.check(&careem, stranger), Ok(()));
    refuse(&limits, &careem, stranger, 1);
    let blocked = limits.check(&careem, stranger).unwrap_err();
    assert_eq!((blocked.scope, blocked.retry_after_seconds), (LimitScope::Address, 300));
    assert_eq!(limits.check(&careem, good), Ok(()));
    assert_eq!(take_all(&limits, &careem), 5);
    // Then it is refused before anything is read.
    assert_eq!(limits.check(&careem, good).unwrap_err().scope, LimitScope::Provider);
}

#[test]
fn addresses_on_the_list_are_not_blocked() {
    let (limits, listed) = (limits("5/1h", "1/60s/300s"), careem(&["203.0.113.0/24"]));
    let address = client("203.0.113.9");
    refuse(&limits, &listed, address, 3);
    assert_eq!(limits.check(&listed, address), Ok(()));
    // Nor are its requests to other providers refused.
    limits.note_refused(None, address);
    assert_eq!(limits.check(&listed, address), Ok(()));
    assert!(limits.check(&careem(&[]), address).is_err());
}

#[test]
fn a_network_of_ipv6_is_one_address() {
    let (limits, careem) = (limits("5/1h", "3/60s/300s"), careem(&[]));
    for host in ["2001:db8::1", "2001:db8::2", "2001:db8::ffff:1"] {
        refuse(&limits, &careem, client(host), 1);
    }
    assert!(limits.check(&careem, client("2001:db8::3")).is_err());
    assert_eq!(limits.check(&careem, client("2001:db8:0:1::3")), Ok(()));
}

#[test]
fn a_provider_is_blocked_only_by_what_was_verified() {
    let (limits, careem) = (limits("2/1h/300s", "100/60s/300s"), careem(&[]));
    let address = client("203.0.113.9");
    assert!(limits.take(&careem, ONE).is_ok() && limits.take(&careem, ONE).is_ok());
    // The quota is used up, but unverified requests cause no block.
    assert_eq!(limits.check(&careem, address), Ok(()));
    let over = limits.take(&careem, ONE).unwrap_err();
    assert_eq!((over.scope, over.retry_after_seconds), (LimitScope::Provider, 300));
    assert_eq!(limits.check(&careem, address).unwrap_err().scope, LimitScope::Provider);
}

#[test]
fn a_share_that_is_spent_is_no_block() {
    let (limits, careem) = (limits("10/1h/300s", "100/60s/300s"), careem(&[]));
    limits.instances.store(2, Ordering::Relaxed);
    let taken: Vec<_> = (0..5).filter_map(|_| limits.take(&careem, ONE).ok()).collect();
    assert_eq!(taken.len(), 5);
    let over = limits.take(&careem, ONE).unwrap_err();
    assert!(over.retry_after_seconds <= 1, "{over:?}");
    assert_eq!(limits.check(&careem, client("203.0.113.9")), Ok(()));
}

#[test]
fn a_point_comes_back() {
    let (limits, careem) = (limits("1/1h", "3/60s/300s"), careem(&[]));
    let point = limits.take(&careem, ONE).unwrap();
    assert!(limits.take(&careem, ONE).is_err());
    limits.give_back(&careem, point);
    assert!(limits.take(&careem, ONE).is_ok());
}

#[test]
fn a_stored_repeat_costs_the_branch_and_not_the_provider() {
    let (limits, careem) = (limits("4/1h", "3/60s/300s"), careem(&[]));
    // The branch's part is a quarter: one point.
    let branch = Principal::recorded(Some("branch:branch-1")).unwrap();
    let repeat = |principal| QuotaLoad {
        principal,
        bytes: 1000,
        is_repeat: true,
    };
    let point = limits.take(&careem, repeat(&branch)).unwrap();
    limits.give_back_of_repeat(&careem, point);
    assert!(limits.fills_more_than(
        &careem,
        QuotaLoad {
            is_repeat: false,
            ..repeat(&branch)
        },
        1500
    ));
    let over = limits.take(&careem, repeat(&branch)).unwrap_err();
    assert_eq!(over.scope, LimitScope::Branch);
    // With the provider's secret, the sender may be a third party that intercepted the webhook.
    for _ in 0..10 {
        let point = limits.take(&careem, repeat(ONE.principal)).unwrap();
        limits.give_back_of_repeat(&careem, point);
    }
    assert!(limits.fills_more_than(&careem, repeat(ONE.principal), 10_500));
    assert!(!limits.fills_more_than(&careem, ONE, 1));
    assert_eq!(take_all(&limits, &careem), 4);
}

#[test]
fn bytes_returned_late_do_not_enter_the_next_window() {
    let (limits, careem) = (limits("5/1h", "3/60s/300s"), careem(&[]));
    let point = limits.take(&careem, QuotaLoad { bytes: 600, ..ONE }).unwrap();
    let own = limits.of("careem").unwrap();
    let length = length_ms(&own.rule);
    let next = |bytes| lock(&own.bytes).take(ONE.of(), bytes, (1000, length), now_ms() + length);
    assert!(next(700).is_ok());
    limits.give_back(&careem, point);
    assert!(next(400).is_err());
    assert!(next(300).is_ok());
}

#[test]
fn unverified_addresses_are_not_known() {
    let limits = limits("5/1h", "1/60s/300s");
    let address = client("203.0.113.9");
    let open = Enabled {
        scheme: Scheme::None,
        ..careem(&[])
    };
    limits.note_accepted(&open, &Principal::provider(), address);
    refuse(&limits, &careem(&[]), address, 1);
    assert!(limits.check(&careem(&[]), address).is_err());
}

#[test]
fn no_block_starts_before_known_addresses_are_read() {
    let (limits, careem) = (limits("5/1h", "1/60s/300s"), careem(&[]));
    limits.is_informed.store(false, Ordering::Relaxed);
    let address = client("203.0.113.9");
    refuse(&limits, &careem, address, 3);
    assert_eq!(limits.check(&careem, address), Ok(()));
    limits.is_informed.store(true, Ordering::Relaxed);
    refuse(&limits, &careem, address, 1);
    assert!(limits.check(&careem, address).is_err());
}

#[test]
fn a_lifted_block_is_not_published() {
    let (limits, careem) = (limits("5/1h", "1/60s/300s"), careem(&[]));
    refuse(&limits, &careem, client("203.0.113.9"), 1);
    refuse(&limits, &careem, client("203.0.113.10"), 1);
    limits.hear(LimitRecord::Lifted(BlockTarget::Address(Address::of(client(
        "203.0.113.9",
    )))));
    let told = limits.next_record().unwrap();
    assert!(matches!(told, LimitRecord::Blocked(BlockTarget::Address(one), _) if one.to_string() == "203.0.113.10"));
    assert_eq!(limits.next_record(), None);
}

#[test]
fn unsent_records_are_limited() {
    let limits = limits("5/1h", "1/60s/300s");
    for number in 0..u32::try_from(MAX_WORDS).unwrap() + 10 {
        limits.note_refused(None, IpAddr::V4(number.into()));
    }
    assert_eq!(lock(&limits.records).len(), MAX_WORDS);
}

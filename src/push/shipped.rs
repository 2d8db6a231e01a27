//! The tables that this version brings for the providers that it knows.

use super::outbound::Spec;

/// Each provider's, by its name. `careem`, in the format of the platform's design, speaks to the same interface as
/// `careem-pos`, and `talabat` to that of `delivery-hero`.
const FILES: [(&str, &str); 5] = [
    ("careem", include_str!("../../providers/outbound/careem-pos.toml")),
    ("careem-pos", include_str!("../../providers/outbound/careem-pos.toml")),
    ("talabat", include_str!("../../providers/outbound/delivery-hero.toml")),
    (
        "delivery-hero",
        include_str!("../../providers/outbound/delivery-hero.toml"),
    ),
    ("uber-eats", include_str!("../../providers/outbound/uber-eats.toml")),
];

/// How a provider is spoken to; none where this version does not know.
///
/// # Errors
/// Every fault of the file; a test rules them out.
pub fn spec(provider: &str) -> Result<Option<Spec>, Vec<String>> {
    match FILES.iter().find(|(name, _)| *name == provider) {
        Some((_, file)) => Spec::from_toml(file),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::push::Word;

    #[test]
    fn every_file_is_right() {
        for (name, _) in FILES {
            assert!(spec(name).unwrap().is_some(), "{name}");
        }
        assert!(spec("pizza").unwrap().is_none());
        assert!(spec("careem").unwrap().unwrap().status.contains_key(&Word::Accepted));
        assert!(spec("uber-eats").unwrap().unwrap().fetch.is_some());
    }
}

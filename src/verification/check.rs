//! Finds faults of a scheme when it is loaded: a rule that protects nothing must not look as if it did.

use super::{
    ambiguity,
    content::{Content, Part},
    json,
    jwt::Jwt,
    location::{Parse, Source, ValueLocation},
    scheme::{Scheme, Signed},
};

/// Deepest nesting of `any_of` and `all_of`.
const MAX_DEPTH: usize = 4;
/// Most steps of one of them.
const MAX_STEPS: usize = 8;

impl Scheme {
    /// Everything that is wrong with it, each with its place; empty if it can be used.
    pub fn check(&self) -> Vec<String> {
        let mut faults = Vec::new();
        self.collect("", 0, &mut faults);
        faults
    }

    fn collect(&self, at: &str, depth: usize, faults: &mut Vec<String>) {
        let mut add = |fault: String| faults.push(format!("{at}{fault}"));
        match self {
            Self::Static(one) => {
                let faults = secret_name(&one.secret).into_iter().chain(one.token.stored());
                faults.for_each(&mut add);
            }
            Self::Basic(one) => secret_name(&one.secret).into_iter().for_each(&mut add),
            Self::Hmac(one) => {
                one.faults().into_iter().for_each(&mut add);
                if one.signed.has(&Part::Secret) {
                    add("signed: {secret} is the key of an HMAC and cannot be a part of the signed text".into());
                }
            }
            Self::HashConcat(one) => {
                one.faults().into_iter().for_each(&mut add);
                if one.signed.0.last() != Some(&Part::Secret) {
                    add("signed: must end with {secret}, or a hash can be extended by anyone who sees it".into());
                }
                if !one.algorithm.resists_collisions() {
                    add("algorithm: sha1 does not protect a hash without a key".into());
                }
            }
            Self::Jwt(one) => one.faults().into_iter().for_each(&mut add),
            Self::None if depth > 0 => add("kind: none among other steps makes them worth nothing".into()),
            Self::None => {}
            Self::AnyOf(steps) | Self::AllOf(steps) => {
                if !(1..=MAX_STEPS).contains(&steps.len()) {
                    add(format!("steps: expected 1 to {MAX_STEPS}"));
                }
                if depth == MAX_DEPTH {
                    return add(format!("steps: nested more than {MAX_DEPTH} deep"));
                }
                if matches!(self, Self::AnyOf(_)) {
                    ambiguity::forms(steps).into_iter().for_each(&mut add);
                }
                for (number, step) in steps.iter().enumerate().take(MAX_STEPS) {
                    step.collect(&format!("{at}steps[{number}]."), depth + 1, faults);
                }
            }
        }
    }
}

/// A secret's name becomes an environment variable's.
fn secret_name(name: &str) -> Option<String> {
    let fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    (!fits).then(|| format!("secret: {name:?} must be a name of small letters and _"))
}

impl Jwt {
    fn faults(&self) -> Vec<String> {
        let fault = self.fault().map(str::to_owned);
        secret_name(&self.secret)
            .into_iter()
            .chain(fault)
            .chain(self.token.stored())
            .collect()
    }
}

impl Signed {
    fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = secret_name(&self.secret).into_iter().collect();
        faults.extend(self.ambiguities());
        if !self.signed.has_of_body() && self.body_hash.is_none() {
            faults.push("signed: holds no part of the body, so it does not protect it".into());
        }
        faults.extend(self.single.iter().filter_map(|pointer| json::pointer_fault(pointer)));
        if let Some(hash) = &self.body_hash {
            if !self.signed.has(&Part::Url) {
                faults.push("body_hash: stands in the URL, which is not signed".into());
            }
            if !hash.algorithm.resists_collisions() {
                faults.push("body_hash: sha1 is too weak".into());
            }
        }
        match &self.timestamp {
            Some(time) if !self.signed.has(&Part::Timestamp) && !self.covers(&time.location) => {
                faults.push("timestamp: is not signed and protects nothing; leave it out".into());
            }
            Some(time) if matches!(time.location.parse, Parse::List(_)) => {
                faults.push("timestamp: cannot be a list".into())
            }
            None if self.signed.has(&Part::Timestamp) => {
                faults.push("signed: has a {timestamp}; expected timestamp, which says where it stands, its unit and its tolerance".into());
            }
            _ => {}
        }
        if self.replay_key.as_ref().is_some_and(|location| !self.covers(location)) {
            faults.push("replay_key: is not signed, so anyone could make a repeat look new; leave it out".into());
        }
        let indirect = |part: &Part| matches!(part, Part::Pointer { pointer, .. } if self.is_signature(pointer));
        if self.signed.0.iter().any(indirect) || (self.in_body() && self.signed.has(&Part::Body)) {
            faults.push("signature: is part of what it signs".into());
        }
        faults
    }

    fn in_body(&self) -> bool {
        matches!(self.signature.source, Source::Pointer(_))
    }

    fn is_signature(&self, pointer: &str) -> bool {
        matches!(&self.signature.source, Source::Pointer(own) if own == pointer)
    }

    /// Whether the value there is signed.
    fn covers(&self, location: &ValueLocation) -> bool {
        match &location.source {
            Source::Header(name) => self.signed.has(&Part::Header(name.clone())),
            Source::Pointer(pointer) => self.covers_pointer(pointer),
        }
    }
}

impl ValueLocation {
    /// Bodies are kept as they came.
    fn stored(&self) -> Option<String> {
        let in_body = matches!(self.source, Source::Pointer(_));
        in_body.then(|| "token: in the body it would be kept with it; only a header can hold it".into())
    }
}

impl Content {
    fn has_of_body(&self) -> bool {
        let is_of_body = |part: &Part| matches!(part, Part::Body | Part::Pointer { .. } | Part::SortedFields);
        self.0.iter().any(is_of_body)
    }
}

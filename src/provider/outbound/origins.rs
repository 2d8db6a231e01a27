//! Allowed origins of requests to a provider: a URL of a table or of a webhook counts only if its origin is configured.
//!
//! Allowed are the origin of the file's `base_url`, that of `<PROVIDER>_API_URL`, and those of `<PROVIDER>_API_HOSTS`. An
//! origin is scheme, host and port. Plain HTTP is allowed only if an entry of the environment begins with `http://`.

use std::collections::HashSet;

use url::Url;

/// Most entries of `<PROVIDER>_API_HOSTS`: a provider has a host a region and a test system.
pub const MAX_HOSTS: usize = 32;

/// Why a URL is not used. It never quotes the URL, which may hold credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// It cannot be read.
    #[error("is not an absolute URL")]
    NoUrl,
    /// `user:password@`.
    #[error("holds credentials")]
    Credentials,
    /// `?…`.
    #[error("has a query")]
    Query,
    /// `#…`.
    #[error("has a fragment")]
    Fragment,
    /// Another scheme than https where nothing else is configured.
    #[error("is not https")]
    NotHttps,
    /// Scheme, host and port are on no list.
    #[error("is on a host that is not configured")]
    Host,
}

/// The origins that are allowed, in their ASCII form (`https://api.example.com:8443`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(HashSet<String>);

impl Origins {
    /// With the origin of a URL that is configured.
    #[must_use]
    pub fn with(mut self, url: &Url) -> Self {
        self.0.insert(url.origin().ascii_serialization());
        self
    }

    /// Reads an entry of the list: `host`, `host:port`, `https://host` or, where plain HTTP is to be allowed, `http://host:port`.
    pub fn entry(text: &str) -> Option<Url> {
        let has_scheme = text.starts_with("https://") || text.starts_with("http://");
        let url = if has_scheme {
            text.to_owned()
        } else {
            format!("https://{text}")
        };
        let url: Url = url.parse().ok()?;
        let is_bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        let is_open = url.username().is_empty() && url.password().is_none();
        let host = url.host_str()?;
        // The parser reads `1.5` as 1.0.0.5, which is refused. A name of one label is accepted only with a scheme before it.
        let is_as_written = text.to_ascii_lowercase().contains(host);
        let is_a_host = has_scheme || host.contains(['.', ':']);
        (is_bare && is_open && is_as_written && is_a_host && !text.ends_with('/')).then_some(url)
    }

    /// Looks at a URL from outside.
    ///
    /// # Errors
    /// Why it is not used.
    pub fn check(&self, text: &str) -> Result<Url, NotAllowed> {
        self.check_beside(text, &[])
    }

    /// The same, where these hosts are allowed as well, by https at its usual port.
    ///
    /// # Errors
    /// The same as [`Self::check`].
    pub fn check_beside(&self, text: &str, hosts: &[String]) -> Result<Url, NotAllowed> {
        let url: Url = text.parse().map_err(|_| NotAllowed::NoUrl)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(NotAllowed::Credentials);
        }
        if url.query().is_some() {
            return Err(NotAllowed::Query);
        }
        if url.fragment().is_some() {
            return Err(NotAllowed::Fragment);
        }
        let is_https = url.scheme() == "https";
        let is_listed =
            is_https && url.port().is_none() && hosts.iter().any(|host| url.host_str() == Some(host.as_str()));
        if is_listed || self.0.contains(&url.origin().ascii_serialization()) {
            return Ok(url);
        }
        Err(if is_https {
            NotAllowed::Host
        } else {
            NotAllowed::NotHttps
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(entries: &[&str]) -> Origins {
        let read = |all: Origins, entry: &&str| all.with(&Origins::entry(entry).unwrap());
        entries.iter().fold(Origins::default(), read)
    }

    #[test]
    fn only_configured_origins_are_allowed() {
        let known = origins(&["api.uber.example", "test.example:8443", "http://127.0.0.1:9000"]);
        for good in [
            "https://api.uber.example",
            "https://API.uber.example:443/v1/",
            "https://test.example:8443/x",
            "http://127.0.0.1:9000/x",
        ] {
            assert!(known.check(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("http://api.uber.example", NotAllowed::NotHttps),
            ("http://127.0.0.1:9001", NotAllowed::NotHttps),
            ("ftp://api.uber.example", NotAllowed::NotHttps),
            ("file:///etc/passwd", NotAllowed::NotHttps),
            ("https://127.0.0.1:9000", NotAllowed::Host),
            ("https://test.example", NotAllowed::Host),
            ("https://api.uber.example:8443", NotAllowed::Host),
            ("https://api.uber.example.", NotAllowed::Host),
            ("https://api.uber.example.evil.example", NotAllowed::Host),
            ("https://169.254.169.254/latest/meta-data", NotAllowed::Host),
            ("https://api.uber.example@evil.example/", NotAllowed::Credentials),
            ("https://user:word@api.uber.example/", NotAllowed::Credentials),
            ("https://:word@api.uber.example/", NotAllowed::Credentials),
            ("https://api.uber.example/?x=1", NotAllowed::Query),
            ("https://api.uber.example/?", NotAllowed::Query),
            ("https://api.uber.example/#x", NotAllowed::Fragment),
            ("api.uber.example", NotAllowed::NoUrl),
            ("/o/1", NotAllowed::NoUrl),
            ("", NotAllowed::NoUrl),
        ] {
            assert_eq!(known.check(bad), Err(why), "{bad}");
        }
        let beside = ["orders.example".to_owned()];
        assert!(known.check_beside("https://orders.example/o/1", &beside).is_ok());
        for bad in ["http://orders.example/o/1", "https://orders.example:444/o/1"] {
            assert!(known.check_beside(bad, &beside).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_entry_is_a_host_and_nothing_else() {
        assert!(Origins::entry("http://mock:8080").is_some() && Origins::entry("[::1]:8080").is_some());
        for bad in [
            "",
            "1",
            "1.5",
            "banana",
            "a/b",
            "a?x",
            "a#x",
            "u:p@a",
            "http://",
            "https://a/",
            "ws://a",
            "a b",
            "*",
        ] {
            assert!(Origins::entry(bad).is_none(), "{bad}");
        }
    }
}

//! The target of a request: a URL, parsed once.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use axum::http::{HeaderValue, Uri, uri::PathAndQuery};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use rustls::pki_types::ServerName;
use url::Url;

/// A URL by which a server is asked: parsed, and cheap to clone. `Debug` shows scheme, host and port alone: a path or a query may hold a
/// secret.
#[derive(Clone)]
pub struct Target(Arc<Parts>);

struct Parts {
    url: Url,
    origin: Arc<Origin>,
    /// Path and query, as the request line has them.
    path: Uri,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

/// Scheme, host and port: what a connection belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// `https`: the name that the server's certificate must have. None for `http`.
    pub(super) tls: Option<ServerName<'static>>,
    /// For the connector: scheme, host and port alone.
    pub(super) uri: Uri,
}

/// A URL that no request can be made to. It does not quote the URL, which may hold credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the URL cannot be used: expected an absolute http or https URL")]
pub struct NotATarget;

impl Target {
    /// Reads a URL. Credentials in it become the header `Authorization`.
    ///
    /// # Errors
    /// If it is no absolute http or https URL.
    pub fn parse(url: &str) -> Result<Self, NotATarget> {
        Url::parse(url).map_err(|_| NotATarget)?.try_into()
    }

    pub(super) fn origin(&self) -> &Arc<Origin> {
        &self.0.origin
    }

    pub(super) fn path(&self) -> Uri {
        self.0.path.clone()
    }

    /// The value of the header `Host`.
    pub(super) fn host(&self) -> HeaderValue {
        self.0.host.clone()
    }

    /// The value of the header `Authorization`, where the URL holds credentials.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        self.0.authorization.clone()
    }

    /// Scheme, host and port of a URL that is relative to this one.
    pub(super) fn origin_of(&self, location: &str) -> Option<String> {
        Some(self.0.url.join(location).ok()?.origin().ascii_serialization())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target")
            .field(&self.0.url.origin().ascii_serialization())
            .finish()
    }
}

impl TryFrom<Url> for Target {
    type Error = NotATarget;

    fn try_from(url: Url) -> Result<Self, NotATarget> {
        let is_tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(NotATarget),
        };
        let name = url.host_str().ok_or(NotATarget)?;
        let tls = if is_tls {
            let bare = name.trim_matches(['[', ']']).to_owned();
            Some(ServerName::try_from(bare).map_err(|_| NotATarget)?)
        } else {
            None
        };
        let port = url.port_or_known_default().ok_or(NotATarget)?;
        let mut host = name.to_owned();
        if let Some(port) = url.port() {
            // Writing to a String cannot fail.
            let _ = write!(host, ":{port}");
        }
        let origin = format!("{}://{name}:{port}", url.scheme());
        let whole: Uri = url.as_str().parse().map_err(|_| NotATarget)?;
        let path = whole.path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        Ok(Self(Arc::new(Parts {
            origin: Arc::new(Origin {
                tls,
                uri: origin.parse().map_err(|_| NotATarget)?,
            }),
            path: path.into(),
            host: HeaderValue::try_from(host).map_err(|_| NotATarget)?,
            authorization: credentials(&url),
            url,
        })))
    }
}

/// Credentials in a URL, percent-encoded there.
fn credentials(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decode = |text| percent_decode_str(text).decode_utf8_lossy();
    basic(&decode(url.username()), &decode(url.password().unwrap_or_default()))
}

/// `Authorization: Basic …` (RFC 7617).
pub(super) fn basic(name: &str, password: &str) -> Option<HeaderValue> {
    let encoded = STANDARD.encode(format!("{name}:{password}"));
    let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use axum::http::{Method, header::HOST};

    use super::*;
    use crate::http::Request;

    #[test]
    fn host_path_and_origin_are_as_the_url_says() {
        for (url, host, path, origin) in [
            ("http://backend:3001", "backend:3001", "/", "http://backend:3001/"),
            ("http://backend:80/a?b=c#d", "backend", "/a?b=c", "http://backend:80/"),
            ("HTTPS://Backend/a b", "backend", "/a%20b", "https://backend:443/"),
            ("http://[::1]:9/a/../b", "[::1]:9", "/b", "http://[::1]:9/"),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!(target.host(), host, "{url}");
            assert_eq!(target.path(), path, "{url}");
            assert_eq!(target.origin().uri, origin.parse::<Uri>().unwrap(), "{url}");
            assert_eq!(target.origin().tls.is_some(), origin.starts_with("https"), "{url}");
            assert_eq!(target.authorization(), None);
        }
        for bad in [
            "",
            "/a",
            "backend:3001",
            "ftp://backend",
            "http://",
            "http://a b/",
            "https://[::1",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn credentials_of_a_url_become_a_header_that_is_not_shown() {
        let target = Target::parse("http://user:p%40ss+@host/").unwrap();
        let value = target.authorization().unwrap();
        assert!(value.is_sensitive());
        assert_eq!(value, format!("Basic {}", STANDARD.encode("user:p@ss+")));
        assert_eq!(target.host(), "host");
    }

    #[test]
    fn no_path_query_or_credential_is_shown() {
        let target = Target::parse("https://user:pass@host:8443/hook/secret-1?key=secret-2").unwrap();
        let header = HeaderValue::from_static("secret-3");
        let request = Request::new(Method::POST, Ok(target.clone())).body("secret-4");
        let request = request.header(HOST, header);
        for shown in [format!("{target:?}"), format!("{target:#?}"), format!("{request:?}")] {
            assert!(shown.contains("https://host:8443"), "{shown}");
            for hidden in ["user", "pass", "secret", "hook", "key"] {
                assert!(!shown.contains(hidden), "{hidden}: {shown}");
            }
        }
    }

    #[test]
    fn a_redirect_is_told_by_its_origin_alone() {
        let target = Target::parse("http://backend:3001/api").unwrap();
        assert_eq!(
            target.origin_of("https://login:8443/x?token=1").unwrap(),
            "https://login:8443"
        );
        assert_eq!(target.origin_of("/login").unwrap(), "http://backend:3001");
    }
}

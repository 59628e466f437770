//! Who gets in, and how much they may ask for.
//!
//! ```text
//!   TCP ──▶ door ─────────────▶ guard ───────────▶ validate ──▶ service
//!           places, TLS,        token → roles,     each field
//!           time limits         rates              of each request
//! ```
//!
//! [`Access`] says what a coordinator asks for; `docs/how-to/security.md` says how it is used.

mod bucket;
mod counts;
mod door;
mod guard;
mod limits;
mod login;
mod tls;
mod tokens;
pub(crate) mod validate;

use std::net::SocketAddr;
use std::path::PathBuf;

pub(crate) use counts::{Count, Counts};
pub(crate) use door::Door;
pub(crate) use guard::{Guard, Holds, SERVICE, admit};
pub use limits::{Limits, Rate};
pub(crate) use login::router as login;
pub(crate) use tls::configuration;
pub(crate) use tokens::read as read_tokens;

/// What a coordinator asks of those who call it.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// With it, everything is encrypted.
    pub tls: Option<TlsFiles>,
    /// The file of tokens; with it, every call must carry one.
    pub tokens: Option<PathBuf>,
    /// Whether to listen beyond loopback though strangers could come in, or listen to what is said.
    pub insecure_listen: bool,
    /// Where nothing but `grpc.health.v1.Health` is answered, without TLS: for probes that know no certificates.
    pub health_listen: Option<String>,
    /// Whether whoever has a role may ask which calls there are (`grpc.reflection.v1`).
    pub reflection: bool,
    /// How much anyone may ask for.
    pub limits: Limits,
}

/// Certificates and keys, in PEM. They may be replaced at any time: the next connection uses the new ones.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The coordinator's certificate, with those between it and its root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// With it, a client must have a certificate that one of these vouches for.
    pub client_ca: Option<PathBuf>,
}

/// Why a coordinator doesn't listen where it was told to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exposed {
    /// Nothing is asked of whoever comes.
    #[error(
        "whoever reaches {0} could take part and steer: ask for tokens (--tokens) over TLS (--tls-cert, --tls-key) or for \
         certificates (--client-ca), listen on 127.0.0.1, or say --insecure-listen"
    )]
    ToAnyone(SocketAddr),
    /// Tokens would travel in the clear.
    #[error(
        "tokens that are sent to {0} could be read on the way: add --tls-cert and --tls-key, listen on 127.0.0.1, or say \
         --insecure-listen"
    )]
    ToEavesdroppers(SocketAddr),
}

impl Access {
    /// Whether it is safe to listen at `address`.
    ///
    /// # Errors
    /// When it is not, and nobody said that this is meant.
    pub(crate) fn check(&self, address: SocketAddr) -> Result<(), Exposed> {
        if address.ip().is_loopback() || self.insecure_listen {
            return Ok(());
        }
        match &self.tls {
            None if self.tokens.is_some() => Err(Exposed::ToEavesdroppers(address)),
            Some(tls) if self.tokens.is_some() || tls.client_ca.is_some() => Ok(()),
            _ => Err(Exposed::ToAnyone(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_loopback_someone_must_be_asked_for_something() {
        let [near, also_near, far] = ["127.0.0.1:1", "[::1]:1", "0.0.0.0:1"].map(|text| text.parse().unwrap());
        let files = |client_ca: Option<PathBuf>| TlsFiles { certificate: "c".into(), key: "k".into(), client_ca };
        let with = |tls: Option<TlsFiles>, tokens: bool| Access {
            tls,
            tokens: tokens.then(|| "t".into()),
            ..Access::default()
        };
        for near in [near, also_near] {
            assert_eq!(with(None, false).check(near), Ok(()));
        }
        assert_eq!(with(None, false).check(far), Err(Exposed::ToAnyone(far)));
        assert_eq!(with(None, true).check(far), Err(Exposed::ToEavesdroppers(far)));
        assert_eq!(with(Some(files(None)), false).check(far), Err(Exposed::ToAnyone(far)));
        assert_eq!(with(Some(files(None)), true).check(far), Ok(()));
        assert_eq!(with(Some(files(Some("ca".into()))), false).check(far), Ok(()));
        assert_eq!(Access { insecure_listen: true, ..Access::default() }.check(far), Ok(()));
    }
}

//! Names to addresses, public ones only. What is checked here is what is connected to: a name that has another address a
//! moment later gains nothing.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;

use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::refusal;

/// A host that is at addresses which are not asked; what kind they are.
#[derive(Debug, thiserror::Error)]
#[error("{0} address")]
pub(super) struct Refused(pub &'static str);

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("the name has no address")]
pub(super) struct Unresolved {
    /// Whether the name server was out of order, and knows better later.
    pub is_passing: bool,
}

/// Looks a name up; ports are of no interest.
pub(super) type Lookup = fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// The system's resolver.
pub(super) fn system(name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
}

/// Resolves names, and gives out what may be asked.
pub(super) struct Resolver {
    pub lookup: Lookup,
    /// Whether addresses that are not public are given out, too.
    pub any_address: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let Resolver { lookup, any_address } = *self;
        Box::pin(async move {
            let found = lookup(name.as_str().to_owned()).await.map_err(|error| {
                // EAI_AGAIN has no kind of its own.
                Unresolved { is_passing: error.to_string().contains("Temporary failure") }
            })?;
            let first = found.first().ok_or(Unresolved { is_passing: false })?;
            let refused = refusal(first.ip());
            let public: Vec<SocketAddr> =
                found.into_iter().filter(|address| any_address || refusal(address.ip()).is_none()).collect();
            let given: Result<Addrs, Box<dyn StdError + Send + Sync>> = match refused {
                Some(kind) if public.is_empty() => Err(Refused(kind).into()),
                _ => Ok(Box::new(public.into_iter())),
            };
            given
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let addresses: &[&str] = match name.as_str() {
            "mixed" => &["10.0.0.1:0", "1.1.1.1:0", "[fd00::1]:0"],
            "private" => &["10.0.0.1:0", "[::1]:0"],
            _ => &[],
        };
        Box::pin(async move { Ok(addresses.iter().map(|address| address.parse().unwrap()).collect()) })
    }

    #[tokio::test]
    async fn addresses_that_are_not_public_are_left_out() {
        let resolve = |name: &str, any_address| Resolver { lookup, any_address }.resolve(name.parse().unwrap());
        let addresses = |found: Addrs| found.map(|address| address.ip().to_string()).collect::<Vec<_>>();
        assert_eq!(addresses(resolve("mixed", false).await.ok().unwrap()), ["1.1.1.1"]);
        assert_eq!(addresses(resolve("private", true).await.ok().unwrap()), ["10.0.0.1", "::1"]);
        assert!(resolve("private", false).await.err().unwrap().is::<Refused>());
        assert!(resolve("nowhere", true).await.err().unwrap().is::<Unresolved>());
    }
}

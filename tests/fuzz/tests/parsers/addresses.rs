//! URLs of strangers: whether their host is an address that is not asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use quern_corpus::fetch::foreign::refused_host;
use quern_fuzz::Target;
use url::{Host, Url};

/// What the standard library says is no public address; each of them must be refused.
fn is_inside(address: IpAddr) -> bool {
    fn v4(address: Ipv4Addr) -> bool {
        address.is_private()
            || address.is_loopback()
            || address.is_link_local()
            || address.is_multicast()
            || address.is_broadcast()
            || address.is_documentation()
            || address.is_unspecified()
    }
    fn v6(address: Ipv6Addr) -> bool {
        address.is_loopback()
            || address.is_multicast()
            || address.is_unspecified()
            || address.is_unique_local()
            || address.is_unicast_link_local()
            || address.to_ipv4().is_some_and(v4)
    }
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    }
}

#[test]
fn addresses() {
    Target::new("addresses").cases(20_000).run(|bytes| {
        let Ok(url) = Url::parse(&String::from_utf8_lossy(bytes)) else { return };
        let refused = refused_host(&url);
        match url.host() {
            Some(Host::Ipv4(address)) if is_inside(address.into()) => assert!(refused.is_some(), "{url}"),
            Some(Host::Ipv6(address)) if is_inside(address.into()) => assert!(refused.is_some(), "{url}"),
            Some(Host::Domain(_)) | None => assert_eq!(refused, None, "a name is judged when it is resolved"),
            _ => {}
        }
    });
}

//! TLS and mutual TLS: who has no certificate, or a wrong or an old one, gets nowhere.

use quern_coordinator::{Access, Exposed, ServeError};
use quern_proto::client::ClientOptions;
use tonic::Code;

use crate::authority::Authority;
use crate::site::{Site, client, code, status};

#[tokio::test]
async fn only_certificates_that_the_right_authority_vouches_for_are_let_in() {
    let site = Site::new();
    let [ours, others] = ["ours", "others"].map(|name| Authority::new(site.folder.path(), name));
    let tls = Some(ours.server(Some(&ours)));
    let coordinator = site.serve(Access { tls, ..Access::default() }).await;
    assert!(coordinator.url().starts_with("https://"));

    let good = ours.client(Some(ours.vouch("good")));
    status(&mut client(&coordinator, &good)).await.unwrap();

    let foreign = ours.client(Some(others.vouch("foreign")));
    let expired = ours.client(Some(ours.vouch_until_long_ago("expired")));
    let disbelieving = others.client(Some(ours.vouch("disbelieving")));
    for (options, reason) in [
        (ours.client(None), "CertificateRequired"),
        (foreign, "UnknownCA"),
        (expired, "CertificateExpired"),
        (disbelieving, "UnknownIssuer"),
    ] {
        let refused = status(&mut client(&coordinator, &options)).await.unwrap_err();
        assert!(matches!(refused.code(), Code::Unavailable | Code::Unknown), "{reason}: {refused:?}");
        assert!(format!("{refused:?}").contains(reason), "{reason}: {refused:?}");
    }
    let plain = ClientOptions::default();
    let url = coordinator.url().replace("https://", "http://");
    let channel = plain.endpoint(&url).unwrap().connect_lazy();
    assert_ne!(code(status(&mut plain.client(channel).unwrap()).await), Code::Ok, "without TLS");

    status(&mut client(&coordinator, &good)).await.unwrap();
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_server_whose_certificate_is_old_is_not_believed() {
    let site = Site::new();
    let ours = Authority::new(site.folder.path(), "ours");
    let mut tls = ours.server(None);
    (tls.certificate, tls.key) = ours.vouch_until_long_ago("old");
    let coordinator = site.serve(Access { tls: Some(tls), ..Access::default() }).await;
    assert_eq!(code(status(&mut client(&coordinator, &ours.client(None))).await), Code::Unavailable);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_replaced_certificate_is_shown_to_the_next_connection() {
    let site = Site::new();
    let [first, second] = ["first", "second"].map(|name| Authority::new(site.folder.path(), name));
    let coordinator = site.serve(Access { tls: Some(first.server(None)), ..Access::default() }).await;
    let mut early = client(&coordinator, &first.client(None));
    status(&mut early).await.unwrap();
    assert_ne!(code(status(&mut client(&coordinator, &second.client(None))).await), Code::Ok);

    second.server(None);
    status(&mut client(&coordinator, &second.client(None))).await.unwrap();
    assert_ne!(code(status(&mut client(&coordinator, &first.client(None))).await), Code::Ok);
    status(&mut early).await.unwrap();

    // A key that doesn't fit changes nothing.
    site.write("server.key", "no key");
    status(&mut client(&coordinator, &second.client(None))).await.unwrap();
    coordinator.shutdown().await;
}

#[tokio::test]
async fn nobody_listens_beyond_loopback_without_asking_who_comes() {
    let site = Site::new();
    let ours = Authority::new(site.folder.path(), "ours");
    let refused = site.try_serve("0.0.0.0:0", Access::default()).await.err().expect("a refusal");
    assert!(matches!(refused, ServeError::Exposed(Exposed::ToAnyone(_))), "{refused}");
    assert!(refused.to_string().contains("--insecure-listen"), "{refused}");
    let tokens = Some(site.tokens());
    let refused = site.try_serve("0.0.0.0:0", Access { tokens: tokens.clone(), ..Access::default() }).await;
    assert!(matches!(refused.err(), Some(ServeError::Exposed(Exposed::ToEavesdroppers(_)))));
    for access in [
        Access { insecure_listen: true, ..Access::default() },
        Access { tokens, tls: Some(ours.server(None)), ..Access::default() },
        Access { tls: Some(ours.server(Some(&ours))), ..Access::default() },
    ] {
        site.try_serve("0.0.0.0:0", access).await.unwrap().shutdown().await;
    }
}

#[tokio::test]
async fn files_that_are_none_are_refused_by_name() {
    let site = Site::new();
    let ours = Authority::new(site.folder.path(), "ours");
    let mut tls = ours.server(None);
    let (_, other_key) = ours.vouch("other");
    tls.key = other_key;
    let refused = site.try_serve("127.0.0.1:0", Access { tls: Some(tls.clone()), ..Access::default() }).await;
    let said = refused.err().expect("a refusal").to_string();
    assert!(said.contains("server.crt") && said.contains("other.key"), "{said}");
    tls.key = site.write("tls.key", "-----BEGIN PRIVATE KEY-----\nhushhush\n");
    let refused = site.try_serve("127.0.0.1:0", Access { tls: Some(tls), ..Access::default() }).await;
    let said = refused.err().expect("a refusal").to_string();
    assert!(said.contains("tls.key") && !said.contains("hush"), "{said}");
}

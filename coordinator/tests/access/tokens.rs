//! Tokens and roles, on calls and in the browser.

use quern_coordinator::{Access, Limits, Rate};
use quern_proto::client::ClientOptions;
use quern_proto::{ControlRequest, LogsRequest, Resume, StatusRequest, SubmitRequest, control_request};
use tonic::{Code, Status};

use crate::authority::Authority;
use crate::site::{OPERATOR, Site, VIEWER, WORKER, client, code, http, registration, status, work};

fn resume() -> ControlRequest {
    ControlRequest { command: Some(control_request::Command::Resume(Resume {})), ..ControlRequest::default() }
}

#[tokio::test]
async fn a_token_opens_what_its_role_may_do_and_nothing_else() {
    let site = Site::new();
    let coordinator = site.serve(Access { tokens: Some(site.tokens()), ..Access::default() }).await;
    for (token, looks, steers, works) in [
        (None, Code::Unauthenticated, Code::Unauthenticated, Code::Unauthenticated),
        (Some("nobodys-secret-token-1"), Code::Unauthenticated, Code::Unauthenticated, Code::Unauthenticated),
        (Some(VIEWER), Code::Ok, Code::PermissionDenied, Code::PermissionDenied),
        // It may steer, but this run isn't paused, and no other can be handed in.
        (Some(OPERATOR), Code::Ok, Code::FailedPrecondition, Code::PermissionDenied),
        (Some(WORKER), Code::PermissionDenied, Code::PermissionDenied, Code::Ok),
    ] {
        let options = token.map_or_else(ClientOptions::default, |token| site.showing(token));
        let mut client = client(&coordinator, &options);
        assert_eq!(code(status(&mut client).await), looks, "{token:?}");
        assert_eq!(code(client.watch(StatusRequest::default()).await), looks, "{token:?}");
        assert_eq!(code(client.logs(LogsRequest::default()).await), looks, "{token:?}");
        assert_eq!(code(client.submit(SubmitRequest { recipe_json: "{}".into() }).await), steers, "{token:?}");
        assert_eq!(code(work(&mut client).await), works, "{token:?}");
        let said: [Result<(), Status>; 2] =
            [client.control(resume()).await.map(drop), client.register(registration()).await.map(drop)];
        for status in said.into_iter().filter_map(Result::err) {
            assert!(token.is_none_or(|token| !format!("{status:?}").contains(token)), "{status:?}");
        }
    }
    // Whoever asks how it is needs no token.
    let channel = ClientOptions::default().endpoint(&coordinator.url()).unwrap().connect_lazy();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    coordinator.shutdown().await;
}

#[tokio::test]
async fn tokens_are_replaced_without_a_restart_on_both_sides() {
    let site = Site::new();
    let coordinator = site.serve(Access { tokens: Some(site.tokens()), ..Access::default() }).await;
    let mut old = client(&coordinator, &site.showing(VIEWER));
    let mut following = client(
        &coordinator,
        &ClientOptions { token_file: Some(site.write("token", VIEWER)), ..ClientOptions::default() },
    );
    status(&mut old).await.unwrap();
    status(&mut following).await.unwrap();
    site.write("tokens", "viewer another-secret-token\n");
    assert_eq!(code(status(&mut old).await), Code::Unauthenticated);
    site.write("token", "another-secret-token\n");
    status(&mut following).await.unwrap();
    // What is no list of tokens changes nothing.
    site.write("tokens", "viewer short\n");
    status(&mut following).await.unwrap();
    coordinator.shutdown().await;
}

#[tokio::test]
async fn tokens_and_certificates_are_both_asked_for() {
    let site = Site::new();
    let ours = Authority::new(site.folder.path(), "ours");
    let (tls, tokens) = (Some(ours.server(Some(&ours))), Some(site.tokens()));
    let coordinator = site.serve(Access { tls, tokens, ..Access::default() }).await;
    let certified = ours.client(Some(ours.vouch("worker")));
    assert_eq!(code(status(&mut client(&coordinator, &certified)).await), Code::Unauthenticated);
    let both = ClientOptions { token_file: site.showing(VIEWER).token_file, ..certified };
    status(&mut client(&coordinator, &both)).await.unwrap();
    coordinator.shutdown().await;
}

#[tokio::test]
async fn wrong_tokens_are_answered_only_so_often_and_lock_nobody_out() {
    let site = Site::new();
    let limits = Limits { failures: Rate { burst: 3, per_second: 0 }, ..Limits::default() };
    let coordinator = site.serve(Access { tokens: Some(site.tokens()), limits, ..Access::default() }).await;
    let mut wrong = client(&coordinator, &site.showing("nobodys-secret-token-1"));
    for _ in 0..3 {
        assert_eq!(code(status(&mut wrong).await), Code::Unauthenticated);
    }
    assert_eq!(code(status(&mut wrong).await), Code::ResourceExhausted);
    status(&mut client(&coordinator, &site.showing(VIEWER))).await.unwrap();
    coordinator.shutdown().await;
}

#[tokio::test]
async fn one_connection_asks_only_so_often() {
    let site = Site::new();
    let limits = Limits { calls: Rate { burst: 5, per_second: 0 }, ..Limits::default() };
    let coordinator = site.serve(Access { limits, ..Access::default() }).await;
    let mut eager = client(&coordinator, &ClientOptions::default());
    for _ in 0..5 {
        status(&mut eager).await.unwrap();
    }
    assert_eq!(code(status(&mut eager).await), Code::ResourceExhausted);
    status(&mut client(&coordinator, &ClientOptions::default())).await.unwrap();
    coordinator.shutdown().await;
}

#[tokio::test]
async fn the_page_asks_for_a_token_and_a_cookie_stands_for_it() {
    let site = Site::new();
    let coordinator = site.serve(Access { tokens: Some(site.tokens()), ..Access::default() }).await;
    let form = http(&coordinator, "GET / HTTP/1.1").await;
    assert!(form.starts_with("HTTP/1.1 401") && form.contains("<form>"), "{form}");
    for path in ["/api/runs", "/metrics", "/nothing"] {
        let answer = http(&coordinator, &format!("GET {path} HTTP/1.1")).await;
        assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("--token-file"), "{path}: {answer}");
    }
    for (token, line) in [(VIEWER, "200"), (OPERATOR, "200"), (WORKER, "403"), ("nobodys-secret-token-1", "401")] {
        let answer = http(&coordinator, &format!("GET /api/runs HTTP/1.1\nAuthorization: Bearer {token}")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {line}")) && !answer.contains(token), "{answer}");
    }
    for token in [WORKER, "nobodys-secret-token-1", ""] {
        let answer = http(&coordinator, &format!("POST /login HTTP/1.1\n\n{token}")).await;
        assert!(answer.starts_with("HTTP/1.1 401") && !answer.contains("set-cookie"), "{answer}");
    }
    let answer = http(&coordinator, &format!("POST /login HTTP/1.1\n\n{VIEWER}")).await;
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect(&answer);
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains(VIEWER), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let looking = format!("GET / HTTP/1.1\nCookie: other=1; {cookie}");
    let page = http(&coordinator, &looking).await;
    assert!(page.starts_with("HTTP/1.1 200") && !page.contains("secret-token"), "{page}");
    // A cookie is worth what its token is.
    site.write("tokens", &format!("operator {OPERATOR}\n"));
    assert!(http(&coordinator, &looking).await.starts_with("HTTP/1.1 401"));
    let metrics = http(&coordinator, &format!("GET /metrics HTTP/1.1\nAuthorization: Bearer {OPERATOR}")).await;
    let counted =
        metrics.lines().find_map(|line| line.strip_prefix("quern_requests_refused_total{reason=\"unknown\"} "));
    assert!(counted.is_some_and(|number| number.parse::<u64>().unwrap() >= 6), "{metrics}");
    coordinator.shutdown().await;
}

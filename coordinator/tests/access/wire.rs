//! What comes over the wire without being a call: random bytes, oversized frames and messages, and silence.

use std::time::Duration;

use quern_coordinator::{Access, Coordinator, Limits};
use quern_proto::client::ClientOptions;
use quern_proto::{ControlRequest, Pause, RegisterRequest, SubmitRequest, control_request};
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::authority::Authority;
use crate::site::{Site, client, code, registration, status};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An HTTP/2 frame of settings, without any.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

async fn connect(coordinator: &Coordinator) -> TcpStream {
    TcpStream::connect(coordinator.address()).await.unwrap()
}

/// Sends bytes, and reads until the coordinator closes.
async fn until_closed(mut stream: TcpStream, bytes: &[u8]) {
    // It may close before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut buffer = [0; 4096];
    while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

/// Limits under which silence ends soon.
fn hasty() -> Limits {
    let soon = Duration::from_millis(200);
    Limits { opening: soon, silence: soon, ..Limits::default() }
}

#[tokio::test]
async fn random_bytes_end_their_connection_and_nothing_else() {
    let site = Site::new();
    let ours = Authority::new(site.folder.path(), "ours");
    for tls in [None, Some(ours.server(None))] {
        let options = if tls.is_some() { ours.client(None) } else { ClientOptions::default() };
        let coordinator = site.serve(Access { tls, limits: hasty(), ..Access::default() }).await;
        let mut good = client(&coordinator, &options);
        status(&mut good).await.unwrap();
        let mut random = Pcg64Mcg::seed_from_u64(13);
        for round in 0..64_usize {
            let mut bytes = vec![0; 1 + round * 61];
            random.fill_bytes(&mut bytes);
            if round % 2 == 1 {
                // As if it were HTTP/2, to get at the frames.
                bytes.splice(0..0, PREFACE.iter().copied());
            }
            until_closed(connect(&coordinator).await, &bytes).await;
        }
        status(&mut good).await.unwrap();
        status(&mut client(&coordinator, &options)).await.unwrap();
        coordinator.shutdown().await;
    }
}

#[tokio::test]
async fn who_asks_too_slowly_is_sent_away() {
    let site = Site::new();
    let coordinator = site.serve(Access { limits: hasty(), ..Access::default() }).await;
    let after_settings = [PREFACE, &SETTINGS].concat();
    // The header of a frame of headers with 16 KiB, of which nothing follows.
    let begun_frame = [&after_settings[..], &[0, 0x40, 0, 1, 4, 0, 0, 0, 1]].concat();
    for (what, bytes) in [
        ("nothing", &b""[..]),
        ("half a preface", &PREFACE[..12]),
        ("half of HTTP/1's headers", b"GET / HTTP/1.1\r\nHost: que"),
        ("a preface, and silence", PREFACE),
        ("settings, and silence", &after_settings),
        ("a frame that doesn't end", &begun_frame),
    ] {
        let closed = until_closed(connect(&coordinator).await, bytes);
        assert!(tokio::time::timeout(Duration::from_secs(30), closed).await.is_ok(), "{what} is waited for");
    }
    // One byte after the other doesn't help.
    let mut dripping = connect(&coordinator).await;
    let drip = async {
        for byte in b"GET / HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
            if dripping.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), drip).await.is_ok(), "drops are waited for");
    status(&mut client(&coordinator, &ClientOptions::default())).await.unwrap();
    coordinator.shutdown().await;
}

#[tokio::test]
async fn a_tls_handshake_must_come_to_an_end() {
    let site = Site::new();
    let ours = Authority::new(site.folder.path(), "ours");
    let coordinator = site.serve(Access { tls: Some(ours.server(None)), limits: hasty(), ..Access::default() }).await;
    // A record of a handshake, of which only the header comes.
    for bytes in [&b""[..], &[22, 3, 1, 2, 0]] {
        let closed = until_closed(connect(&coordinator).await, bytes);
        assert!(tokio::time::timeout(Duration::from_secs(30), closed).await.is_ok());
    }
    status(&mut client(&coordinator, &ours.client(None))).await.unwrap();
    coordinator.shutdown().await;
}

#[tokio::test]
async fn oversized_frames_messages_and_headers_are_refused() {
    let site = Site::new();
    let coordinator = site.serve(Access::default()).await;
    // A frame of 16 MiB, where HTTP/2 allows 16 KiB unless more was agreed on.
    let frame = [PREFACE, &SETTINGS, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], &[0; 1024]].concat();
    until_closed(connect(&coordinator).await, &frame).await;
    let mut client = client(&coordinator, &ClientOptions::default());
    let recipe = |bytes: usize| SubmitRequest { recipe_json: "x".repeat(bytes) };
    assert_eq!(code(client.submit(recipe((1 << 20) + 1)).await), Code::InvalidArgument);
    assert_eq!(code(client.submit(recipe(8 << 20)).await), Code::OutOfRange);
    let mut request = tonic::Request::new(SubmitRequest::default());
    request.metadata_mut().insert("x", "x".repeat(64 << 10).parse().unwrap());
    assert_ne!(code(client.submit(request).await), Code::Ok);
    status(&mut client).await.unwrap();
    coordinator.shutdown().await;
}

#[tokio::test]
async fn fields_that_cannot_be_are_refused_by_name() {
    let site = Site::new();
    let coordinator = site.serve(Access::default()).await;
    let mut client = client(&coordinator, &ClientOptions::default());
    let refused = client.register(RegisterRequest { address: "nowhere".into(), ..registration() }).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "`address` must be HOST:PORT"));
    let pause = Pause { reason: "x".repeat(1 << 20) };
    let request = ControlRequest { command: Some(control_request::Command::Pause(pause)), ..ControlRequest::default() };
    let refused = client.control(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("`pause.reason`"), "{refused:?}");
    coordinator.shutdown().await;
}

#[tokio::test]
async fn one_more_than_there_are_places_is_closed_at_once() {
    let site = Site::new();
    let limits = Limits { connections: 3, ..Limits::default() };
    let coordinator = site.serve(Access { limits, ..Access::default() }).await;
    let mut good = client(&coordinator, &ClientOptions::default());
    status(&mut good).await.unwrap();
    let idle = [connect(&coordinator).await, connect(&coordinator).await];
    until_closed(connect(&coordinator).await, b"").await;
    status(&mut good).await.unwrap();
    drop(idle);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn probes_are_answered_at_a_door_of_their_own_and_nothing_else_is() {
    let site = Site::new();
    let ours = Authority::new(site.folder.path(), "ours");
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let tls = Some(ours.server(Some(&ours)));
    let coordinator = site.serve(Access { tls, health_listen: Some(free.clone()), ..Access::default() }).await;
    let options = ClientOptions::default();
    let channel = options.endpoint(&format!("http://{free}")).unwrap().connect_lazy();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    assert_eq!(code(status(&mut options.client(channel).unwrap()).await), Code::Unimplemented);
    coordinator.shutdown().await;
}

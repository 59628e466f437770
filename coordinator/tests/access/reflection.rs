//! Server reflection: only where it was asked for, and only for whom the coordinator knows.

use quern_coordinator::{Access, Coordinator};
use quern_proto::client::ClientOptions;
use tonic::{Code, Request, Status};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::site::{OPERATOR, Site, VIEWER, WORKER, code};

async fn ask(coordinator: &Coordinator, token: Option<&str>, what: MessageRequest) -> Result<MessageResponse, Status> {
    let channel = ClientOptions::default().endpoint(&coordinator.url()).unwrap().connect_lazy();
    let question = ServerReflectionRequest { host: String::new(), message_request: Some(what) };
    let mut request = Request::new(futures::stream::iter([question]));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let mut answers = ServerReflectionClient::new(channel).server_reflection_info(request).await?.into_inner();
    let ServerReflectionResponse { message_response, .. } = answers.message().await?.expect("an answer");
    Ok(message_response.expect("it says something"))
}

/// The services that there are.
async fn services(coordinator: &Coordinator, token: Option<&str>) -> Result<Vec<String>, Status> {
    match ask(coordinator, token, MessageRequest::ListServices(String::new())).await? {
        MessageResponse::ListServicesResponse(list) => Ok(list.service.into_iter().map(|found| found.name).collect()),
        other => panic!("services are listed, not {other:?}"),
    }
}

#[tokio::test]
async fn it_is_off_unless_it_is_asked_for() {
    let site = Site::new();
    let coordinator = site.serve(Access::default()).await;
    assert_eq!(code(services(&coordinator, None).await), Code::Unimplemented);
    coordinator.shutdown().await;
}

#[tokio::test]
async fn it_tells_of_our_calls_and_their_messages() {
    let site = Site::new();
    let coordinator = site.serve(Access { reflection: true, ..Access::default() }).await;
    let services = services(&coordinator, None).await.unwrap();
    for service in ["quern.v1.Coordinator", "grpc.health.v1.Health"] {
        assert!(services.iter().any(|found| found == service), "{services:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol("quern.v1.LeaseReply".into());
    let told = ask(&coordinator, None, symbol).await.unwrap();
    assert!(matches!(told, MessageResponse::FileDescriptorResponse(_)), "{told:?}");
    coordinator.shutdown().await;
}

#[tokio::test]
async fn any_role_may_ask_and_strangers_may_not() {
    let site = Site::new();
    let coordinator = site.serve(Access { tokens: Some(site.tokens()), reflection: true, ..Access::default() }).await;
    for (token, expected) in [
        (None, Code::Unauthenticated),
        (Some("nobodys-secret-token-1"), Code::Unauthenticated),
        (Some(VIEWER), Code::Ok),
        (Some(OPERATOR), Code::Ok),
        (Some(WORKER), Code::Ok),
    ] {
        assert_eq!(code(services(&coordinator, token).await), expected, "{token:?}");
    }
    coordinator.shutdown().await;
}

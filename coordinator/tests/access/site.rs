//! A coordinator with rules of access, and clients that keep them or don't.

use std::path::PathBuf;
use std::sync::Arc;

use quern_coordinator::{Access, Coordinator, ScriptedClock, ServeError, ServeOptions, VERSION, serve};
use quern_proto::client::{Client, ClientOptions};
use quern_proto::{Credentials, LeaseRequest, RegisterRequest, StatusRequest};
use quern_recipes::Recipe;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Status};

pub const VIEWER: &str = "viewers-secret-token-1";
pub const OPERATOR: &str = "operators-secret-token";
pub const WORKER: &str = "workers-secret-token-1";

/// Folders of one run.
pub struct Site {
    pub folder: TempDir,
}

impl Site {
    /// A run over a corpus that isn't there: nobody gets a shard.
    pub fn new() -> Self {
        Site { folder: TempDir::new().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in one go, as what rotates secrets does.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
        self.path(name)
    }

    /// The three tokens.
    pub fn tokens(&self) -> PathBuf {
        self.write("tokens", &format!("viewer {VIEWER}\noperator {OPERATOR} olga\nworker {WORKER}\n"))
    }

    pub fn recipe(&self) -> Recipe {
        let yaml = "name: test\noutput: out\ndatasets:\n  - name: toy\n    path: corpus\n    capfilt: false\n";
        Recipe::parse("test.yaml", yaml).unwrap().resolve(self.folder.path())
    }

    pub async fn try_serve(&self, listen: &str, access: Access) -> Result<Coordinator, ServeError> {
        let clock = Arc::new(ScriptedClock::default());
        serve(ServeOptions { access, clock, ..ServeOptions::new(self.recipe(), listen, self.path("journal")) }).await
    }

    pub async fn serve(&self, access: Access) -> Coordinator {
        self.try_serve("127.0.0.1:0", access).await.unwrap()
    }

    /// Options that show `token`.
    pub fn showing(&self, token: &str) -> ClientOptions {
        ClientOptions { token_file: Some(self.write(&format!("token-{token}"), token)), ..ClientOptions::default() }
    }
}

/// A client; nothing is sent before its first call.
pub fn client(coordinator: &Coordinator, options: &ClientOptions) -> Client {
    options.client(options.endpoint(&coordinator.url()).unwrap().connect_lazy()).unwrap()
}

/// How a call ends.
pub fn code<T>(reply: Result<T, Status>) -> Code {
    reply.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Whether the coordinator says how its run is.
pub async fn status(client: &mut Client) -> Result<(), Status> {
    client.status(StatusRequest::default()).await.map(drop)
}

pub fn registration() -> RegisterRequest {
    RegisterRequest { name: "w".into(), device: "cpu".into(), version: VERSION.into(), address: "w:1".into(), ..RegisterRequest::default() }
}

/// Registers, and asks for work once.
pub async fn work(client: &mut Client) -> Result<Credentials, Status> {
    let credentials = client.register(registration()).await?.into_inner().credentials;
    client.lease(LeaseRequest { credentials: credentials.clone() }).await?;
    Ok(credentials.unwrap())
}

/// One request over HTTP/1.1, and all of the answer.
pub async fn http(coordinator: &Coordinator, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(coordinator.address()).await.unwrap();
    let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
    let length = body.len();
    let head = head.replace('\n', "\r\n");
    let text = format!("{head}\r\nHost: quern\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

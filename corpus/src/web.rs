//! For tests: a web server that answers as it is told, and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub path: String,
    pub user_agent: String,
    /// How often this path was asked for before.
    pub before: usize,
}

/// What is answered.
pub(crate) struct Reply {
    bytes: Vec<u8>,
    hangs: bool,
}

impl Reply {
    /// A whole answer. Headers are lines such as `Retry-After: 0`.
    pub fn new(status: u16, headers: &[&str], body: &[u8]) -> Self {
        let length = format!("Content-Length: {}", body.len());
        Reply::raw(status, &[headers, &[&length]].concat(), body)
    }

    /// An answer whose headers say what they like about its body, after which the connection is closed.
    pub fn raw(status: u16, headers: &[&str], body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 {status} Said\r\nConnection: close\r\n{}\r\n\r\n", headers.join("\r\n"));
        Reply { bytes: [head.as_bytes(), body].concat(), hangs: false }
    }

    /// Nothing comes after it, and the connection stays open.
    pub fn and_hangs(self) -> Self {
        Reply { hangs: true, ..self }
    }

    /// No answer at all: the connection is closed.
    pub fn none() -> Self {
        Reply { bytes: Vec::new(), hangs: false }
    }
}

type Answer = dyn Fn(Asked) -> BoxFuture<'static, Reply> + Send + Sync;

/// A server on a free port of this machine; its tasks end with the runtime.
pub(crate) struct Web {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Web {
    pub async fn start(answer: impl Fn(Asked) -> BoxFuture<'static, Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (asked, answer): (Arc<Mutex<Vec<Asked>>>, Arc<Answer>) = (Arc::default(), Arc::new(answer));
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, Arc::clone(&log), Arc::clone(&answer)));
            }
        });
        Web { address, asked }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }
}

async fn serve(mut connection: TcpStream, log: Arc<Mutex<Vec<Asked>>>, answer: Arc<Answer>) -> Option<()> {
    let mut lines = BufReader::new(&mut connection).lines();
    let path = lines.next_line().await.ok()??.split(' ').nth(1)?.to_owned();
    let mut user_agent = String::new();
    while let Some(line) = lines.next_line().await.ok()?.filter(|line| !line.is_empty()) {
        if let Some(("user-agent", value)) = line.split_once(": ") {
            user_agent = value.to_owned();
        }
    }
    let asked = {
        let mut log = log.lock().expect("no panic");
        let before = log.iter().filter(|asked| asked.path == path).count();
        log.push(Asked { path, user_agent, before });
        log.last()?.clone()
    };
    let reply = answer(asked).await;
    connection.write_all(&reply.bytes).await.ok()?;
    if reply.hangs {
        std::future::pending::<()>().await;
    }
    connection.shutdown().await.ok()
}

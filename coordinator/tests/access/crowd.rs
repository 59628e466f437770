//! Ten thousand connections that ask for nothing, from a process of their own, while a client is served.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quern_coordinator::{Access, Limits, Rate};
use quern_proto::client::ClientOptions;

use crate::site::{Site, client, http, status};

const CROWD: usize = 10_000;
/// Open files that either process needs besides.
const OTHERS: u64 = 600;
/// Says to this test's binary, started again, whom to crowd.
const TARGET: &str = "QUERN_TEST_CROWD_TARGET";

/// What the other process does: connects, says that it has, and waits until it is told to end.
#[test]
#[ignore = "the other test starts it in a process of its own"]
fn crowd() {
    let target: SocketAddr = std::env::var(TARGET).expect("someone to crowd").parse().unwrap();
    raise_open_files();
    let connections: Vec<TcpStream> = (0..CROWD).map(|_| TcpStream::connect(target).unwrap()).collect();
    println!("\ncrowded");
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
    drop(connections);
}

fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes to the structure that it is given, and nothing else.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    let needed = CROWD as u64 + OTHERS;
    assert!(
        limit.rlim_max >= needed,
        "this test needs {needed} open files, and the machine allows {}: raise the hard limit (ulimit -Hn)",
        limit.rlim_max
    );
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the call only reads the structure.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

/// The other process; it ends with this.
struct Crowd(Child);

impl Drop for Crowd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_keep_nobody_from_being_served() {
    raise_open_files();
    let site = Site::new();
    // Nobody is sent away before all have come, and who is served may ask without end.
    let calls = Rate { burst: u32::MAX, per_second: u32::MAX };
    let limits = Limits { opening: Duration::from_secs(600), calls, ..Limits::default() };
    let coordinator = site.serve(Access { limits, ..Access::default() }).await;
    let mut early = client(&coordinator, &ClientOptions::default());
    status(&mut early).await.unwrap();

    let binary = std::env::current_exe().unwrap();
    let mut crowd = Command::new(binary)
        .args(["--ignored", "--exact", "crowd::crowd", "--nocapture"])
        .env(TARGET, coordinator.address().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(Crowd)
        .unwrap();
    let mut said = BufReader::new(crowd.0.stdout.take().unwrap()).lines();
    let waiting = tokio::task::spawn_blocking(move || said.any(|line| line.unwrap() == "crowded"));
    // While they come, and when all are there.
    while !waiting.is_finished() {
        status(&mut early).await.unwrap();
    }
    assert!(waiting.await.unwrap(), "the crowd came");
    status(&mut early).await.unwrap();
    let mut late = client(&coordinator, &ClientOptions::default());
    for _ in 0..100 {
        status(&mut late).await.unwrap();
    }
    // Who came late was accepted after all of the crowd.
    let metrics = http(&coordinator, "GET /metrics HTTP/1.1").await;
    let open = metrics.lines().find_map(|line| line.strip_prefix("quern_connections ")).expect("a count");
    assert!(open.parse::<usize>().unwrap() > CROWD, "{open} connections are open");
    drop(crowd);
    coordinator.shutdown().await;
}

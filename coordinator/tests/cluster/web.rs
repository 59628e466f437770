//! What a browser and Prometheus see on the same port.

use quern_proto::ControlRequest;

use crate::harness::{STAGE1, Site, Worker, cancelled, client, get, mill, phase};

#[tokio::test]
async fn a_browser_and_prometheus_see_the_run_on_the_same_port() {
    let site = Site::new(STAGE1);
    let coordinator = site.serve().await;
    phase(&coordinator, "capfilt").await;
    let mut worker = Worker::register(&coordinator, "host <b>1</b>").await;
    mill(&mut worker).await;
    phase(&coordinator, "stage1").await;
    let whole = |_: &str| false;

    let page = get(&coordinator, "/", whole).await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("content-security-policy: default-src 'none'"), "{page}");
    // Nothing is fetched from elsewhere; the only URL is a name space.
    let urls: Vec<&str> =
        page.match_indices("http").map(|(at, _)| page[at..].split(['"', '\'']).next().unwrap()).collect();
    assert!(urls.iter().all(|url| url.starts_with("http://www.w3.org/2000/svg")), "{urls:?}");
    assert!(!page.contains("innerHTML"), "names and reasons are foreign text");

    let metrics = get(&coordinator, "/metrics", whole).await;
    let run = coordinator.status().borrow().run_id.clone();
    for (metric, labels) in [
        ("quern_run_phase", "phase=\"stage1\"} 1"),
        ("quern_rows_settled_total", "outcome=\"passed\"} 20"),
        ("quern_worker_silent_seconds", "worker=\"w1\",name=\"host <b>1</b>\"} 0"),
    ] {
        let line = format!("{metric}{{run=\"{run}\",{labels}");
        assert!(metrics.lines().any(|found| found == line), "{line} is missing in {metrics}");
    }

    let runs = get(&coordinator, "/api/runs", whole).await;
    assert!(runs.contains(&format!("\"run_id\":\"{run}\"")), "{runs}");
    let unknown = get(&coordinator, "/api/runs/nobody/status", whole).await;
    assert!(unknown.starts_with("HTTP/1.1 404") && unknown.contains("there is no run"), "{unknown}");
    let api = |what: &str| format!("/api/runs/{run}/{what}");
    let status = get(&coordinator, &api("status"), whole).await;
    let status: serde_json::Value = serde_json::from_str(status.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!((&status["phase"], &status["rows_passed"]), (&"stage1".into(), &20.into()));
    let history = get(&coordinator, &api("history"), whole).await;
    assert!(history.contains("\"rows\":20"), "{history}");

    let events = get(&coordinator, &api("events"), |reply| reply.contains("data: ")).await;
    assert!(events.contains("text/event-stream") && events.contains("data: {\"run_id\""), "{events}");
    // A stream that is being read does not hold up the end.
    let events = api("events");
    let reading = get(&coordinator, &events, whole);
    let (_, ()) = tokio::join!(reading, async {
        tokio::task::yield_now().await;
        client(&coordinator)
            .await
            .control(ControlRequest { command: Some(cancelled()), ..ControlRequest::default() })
            .await
            .unwrap();
    });
    let cancelled = format!("quern_run_phase{{run=\"{run}\",phase=\"cancelled\"}} 1");
    assert!(get(&coordinator, "/metrics", whole).await.contains(&cancelled));
    coordinator.shutdown().await;
}

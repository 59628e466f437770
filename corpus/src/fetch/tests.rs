use std::io;
use std::net::SocketAddr;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::web::{Asked, Reply, Web};

const PATIENCE: Patience =
    Patience { retries: 2, first_wait: Duration::from_millis(1), longest_wait: Duration::from_millis(20) };

/// Names of the tests' own; nothing is asked of a name server.
fn lookup(name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    let address = match name.as_str() {
        "images.test" => Some("127.0.0.1:0"),
        "private.test" => Some("10.0.0.1:0"),
        "metadata.test" => Some("169.254.169.254:0"),
        "localhost" => Some("[::1]:0"),
        _ => None,
    };
    let found = address.map(|address| vec![address.parse().unwrap()]);
    std::future::ready(found.ok_or_else(|| io::Error::other("Name or service not known"))).boxed()
}

fn fetcher(allowed: &[String], change: impl Fn(&mut Fetch)) -> Fetcher {
    let mut fetch = Fetch { allow_private_hosts: allowed.to_vec(), ..Fetch::default() };
    change(&mut fetch);
    Fetcher::with(&fetch, 1000, Patience { retries: fetch.retries, ..PATIENCE }, lookup).unwrap()
}

/// A server that may be asked, at its address and as `images.test`.
fn fetcher_of(web: &Web) -> Fetcher {
    fetcher(&[web.address.to_string(), format!("images.test:{}", web.address.port())], |_| {})
}

fn redirect(to: &str) -> Reply {
    Reply::new(302, &[&format!("Location: {to}")], b"")
}

fn answer(asked: &Asked) -> Reply {
    let large = [b'x'; 1001];
    match asked.path.split('?').next().unwrap() {
        "/image" => Reply::new(200, &[], b"image"),
        "/longest" => Reply::new(200, &[], &large[1..]),
        "/gone" => Reply::new(404, &[], b"gone"),
        "/broken" => Reply::new(503, &[], b""),
        "/broken-once" if asked.before == 0 => Reply::new(500, &[], b""),
        "/busy-once" if asked.before == 0 => Reply::new(429, &["Retry-After: 0"], b""),
        "/busy" => Reply::new(429, &["Retry-After: 3600"], b""),
        "/cut" => Reply::raw(200, &["Content-Length: 100"], b"the beginning"),
        "/cut-once" if asked.before == 0 => Reply::raw(200, &["Content-Length: 100"], b"the beginning"),
        "/silent" => Reply::none(),
        "/large" => Reply::raw(200, &["Content-Length: 1001"], b"").and_hangs(),
        "/large-chunks" => {
            let chunk = [b"3e9\r\n", &large[..], b"\r\n"].concat();
            Reply::raw(200, &["Transfer-Encoding: chunked"], &chunk).and_hangs()
        }
        "/noai" => Reply::new(200, &["X-Robots-Tag: noai"], b"image"),
        "/not-for-quern" => Reply::new(200, &["X-Robots-Tag: nofollow", "X-Robots-Tag: quern: noindex"], b"image"),
        "/not-for-others" => Reply::new(200, &["X-Robots-Tag: others: noindex"], b"image"),
        "/loop" => redirect("/loop"),
        "/once" => redirect("image"),
        "/nowhere" => Reply::new(301, &[], b""),
        "/no-url" => redirect("http://"),
        "/file" => redirect("file:///etc/passwd"),
        "/private" => redirect("http://10.0.0.1/"),
        "/private-name" => redirect("http://private.test/"),
        "/metadata" => redirect("http://169.254.169.254/latest/meta-data/"),
        "/other-port" => redirect("http://127.0.0.1:1/"),
        "/v6" => redirect("http://[::ffff:127.0.0.1]/"),
        path if path.starts_with("/hop") => match path[4..].parse::<u32>().unwrap() {
            0 => redirect("/image"),
            more => redirect(&format!("/hop{}", more - 1)),
        },
        _ => Reply::new(200, &[], b"image"),
    }
}

async fn web() -> Web {
    Web::start(|asked| std::future::ready(answer(&asked)).boxed()).await
}

/// What comes of each path, and how many requests it takes.
#[tokio::test]
async fn answers_become_images_or_reasons() {
    let web = web().await;
    let fetcher = fetcher_of(&web);
    for (path, wanted, requests) in [
        ("/image", "", 1),
        ("/longest", "", 1),
        ("/gone", "fetch_status", 1),
        ("/broken", "fetch_status", 3),
        ("/broken-once", "", 2),
        ("/busy-once", "", 2),
        ("/busy", "fetch_status", 1),
        ("/cut", "fetch_failed", 3),
        ("/cut-once", "", 2),
        ("/silent", "fetch_failed", 3),
        ("/large", "fetch_too_large", 1),
        ("/large-chunks", "fetch_too_large", 1),
        ("/noai", "fetch_opt_out", 1),
        ("/not-for-quern", "fetch_opt_out", 1),
        ("/not-for-others", "", 1),
        ("/loop", "fetch_redirects", 6),
        ("/once", "", 2),
        ("/hop3", "", 5),
        ("/hop4", "", 6),
        ("/hop5", "fetch_redirects", 6),
        ("/nowhere", "fetch_status", 1),
        ("/no-url", "fetch_invalid_url", 1),
        ("/file", "fetch_invalid_url", 1),
        ("/private", "fetch_refused_address", 1),
        ("/private-name", "fetch_refused_address", 1),
        ("/metadata", "fetch_refused_address", 1),
        ("/other-port", "fetch_refused_address", 1),
        ("/v6", "fetch_refused_address", 1),
    ] {
        let found = fetcher.get(&web.url(path)).await;
        let reason = found.as_ref().map_or_else(|missing| missing.reason, |_| "");
        assert_eq!((reason, web.asked().len()), (wanted, requests), "{path}: {found:?}");
    }
    assert_eq!(fetcher.get(&web.url("/image")).await.unwrap(), "image");
    let status = fetcher.get(&web.url("/gone")).await.unwrap_err();
    assert!(status.detail.ends_with("/gone answers 404"), "{status}");
}

#[tokio::test]
async fn the_recipe_says_who_asks_and_whether_opt_outs_are_honoured() {
    let web = web().await;
    let allowed = [web.address.to_string()];
    let deaf = fetcher(&allowed, |fetch| fetch.honour_opt_out = false);
    assert_eq!(deaf.get(&web.url("/noai")).await.unwrap(), "image");
    let named = fetcher(&allowed, |fetch| fetch.user_agent = Some("Others/2 (+https://example.org)".into()));
    assert_eq!(named.get(&web.url("/not-for-others")).await.unwrap_err().reason, "fetch_opt_out");
    assert_eq!(named.get(&web.url("/not-for-quern")).await.unwrap(), "image");
    let agents: Vec<String> = web.asked().into_iter().map(|asked| asked.user_agent).collect();
    let ours = format!("quern/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(agents, [&ours, "Others/2 (+https://example.org)", "Others/2 (+https://example.org)"]);
}

#[tokio::test]
async fn a_server_that_does_not_go_on_is_left() {
    let web = Web::start(|asked| match asked.path.as_str() {
        "/no-answer" => std::future::pending().boxed(),
        _ => std::future::ready(Reply::raw(200, &["Content-Length: 100"], b"the beginning").and_hangs()).boxed(),
    });
    let web = web.await;
    let fetcher = fetcher(&[web.address.to_string()], |fetch| (fetch.timeout_ms, fetch.retries) = (50, 1));
    for path in ["/no-answer", "/no-end"] {
        assert_eq!(fetcher.get(&web.url(path)).await.unwrap_err().reason, "fetch_timeout", "{path}");
    }
}

#[tokio::test]
async fn what_is_no_public_web_address_is_not_asked() {
    let fetcher = fetcher(&["images.test:1".into()], |_| {});
    for url in [
        "",
        "image.jpg",
        "/etc/passwd",
        "ftp://h/a.jpg",
        "file:///etc/passwd",
        "data:image/png,x",
        "http://",
        "http://a b/",
    ] {
        assert_eq!(fetcher.get(url).await.unwrap_err().reason, "fetch_invalid_url", "{url}");
    }
    for url in [
        "http://127.0.0.1/",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://017700000001/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::192.168.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost/",
        "http://metadata.test/",
        "https://private.test:8443/",
        "http://images.test:2/", // the exception is for another port
    ] {
        let missing = fetcher.get(url).await.unwrap_err();
        assert_eq!(missing.reason, "fetch_refused_address", "{url}: {missing}");
    }
    let missing = fetcher.get("http://nowhere.test/").await.unwrap_err();
    assert_eq!(missing.reason, "fetch_dns", "{missing}");
}

#[tokio::test]
async fn exceptions_let_a_named_host_in() {
    let web = web().await;
    let url = format!("http://images.test:{}/image", web.address.port());
    assert_eq!(fetcher_of(&web).get(&url).await.unwrap(), "image");
    assert_eq!(fetcher(&[], |_| {}).get(&url).await.unwrap_err().reason, "fetch_refused_address");
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_no_connection() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let missing = fetcher(&[closed.to_string()], |_| {}).get(&format!("http://{closed}/")).await.unwrap_err();
    assert_eq!(missing.reason, "fetch_connect", "{missing}");
}

#[tokio::test]
async fn details_hold_no_secrets() {
    let web = web().await;
    let (fetcher, address) = (fetcher_of(&web), web.address);
    for path in ["gone", "broken", "cut", "silent", "large", "noai", "loop", "private", "file", "no-url"] {
        let url = format!("http://ann:hush@{address}/{path}?token=hush#hush");
        let missing = fetcher.get(&url).await.unwrap_err();
        assert!(!missing.detail.contains("hush") && !missing.detail.contains("ann"), "{missing}");
    }
    let nowhere = fetcher.get("http://ann:hush@nowhere.test/a?token=hush").await.unwrap_err();
    assert_eq!(nowhere.detail, "http://nowhere.test/a: its host's name has no address");
    let broken = fetcher.get("http://ann:hush@a b/").await.unwrap_err();
    assert!(!broken.detail.contains("hush"), "{broken}");
}

/// A server that shows a certificate of its own for `images.test`, and how often it was asked.
async fn with_own_certificate() -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let own = rcgen::generate_simple_self_signed(["images.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::<std::sync::atomic::AtomicUsize>::default());
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            // The client hangs up on it.
            let _ = acceptor.accept(connection).await;
        }
    });
    (address, asked)
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused_once() {
    let (address, asked) = with_own_certificate().await;
    let fetcher = fetcher(&[format!("images.test:{}", address.port())], |_| {});
    let url = format!("https://images.test:{}/image?secret", address.port());
    let error = fetcher.get(&url).await.unwrap_err();
    assert_eq!(error.reason, "fetch_certificate", "{error}");
    assert!(error.detail.contains("certificate is refused") && error.detail.contains("SSL_CERT_FILE"), "{error}");
    assert!(!error.detail.contains("secret"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "another try can't help");
    // What is no TLS at all is no certificate.
    let web = Web::start(|_| std::future::ready(Reply::new(200, &[], b"image")).boxed()).await;
    let plain = fetcher_of(&web).get(&format!("https://{}/image", web.address)).await.unwrap_err();
    assert_eq!(plain.reason, "fetch_connect", "{plain}");
}

use std::sync::{Arc, Mutex};

use object_store::Error;

use super::*;
use crate::source::tests::server::{Response, Server};
use crate::source::tests::{CHILD, again};
use crate::source::{ModelSource, Wanted};

type Site = Arc<Mutex<Vec<(&'static str, &'static str)>>>;

/// A web server with files under `/models/blip/`.
fn serve(site: &Site) -> Server {
    let site = site.clone();
    Server::start(move |request| {
        let site = site.lock().unwrap();
        let found = site.iter().find(|(name, _)| request.path == format!("/models/blip/{name}"));
        match found {
            Some((_, body)) => Response::new("200 OK", body.as_bytes())
                .header("ETag", format!("\"{body}\""))
                .header("Last-Modified", "Tue, 15 Nov 1994 12:45:26 GMT"),
            None => Response::new("404 Not Found", b""),
        }
    })
}

fn fetch(url: &str, folder: &Path) -> Result<PathBuf, SourceError> {
    let environment = Environment { model_cache: folder.to_path_buf(), ..Environment::of_process() };
    ModelSource::parse(url)?.fetch_with(&environment, Wanted::Everything)
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

#[test]
fn a_folder_is_mirrored_and_fetched_again_only_where_it_changed() {
    let site: Site = Arc::new(Mutex::new(vec![("config.json", "{}"), ("pytorch_model.bin", "old")]));
    let (server, folder) = (serve(&site), tempfile::tempdir().unwrap());
    let url = format!("{}/models/blip", server.url);
    let gets = || server.asked().iter().filter(|line| line.starts_with("GET")).count();
    let model = fetch(&url, folder.path()).unwrap();
    assert_eq!(files(&model), [LOCK, TAGS, "config.json", "pytorch_model.bin"]);
    assert_eq!(gets(), 2);
    assert_eq!(fetch(&url, folder.path()).unwrap(), model);
    assert_eq!(gets(), 0);
    // The same size, another tag.
    site.lock().unwrap()[1].1 = "new";
    fetch(&url, folder.path()).unwrap();
    assert_eq!(fs::read_to_string(model.join("pytorch_model.bin")).unwrap(), "new");
    assert_eq!(gets(), 1);
    // A file that someone cut short here is not what the tag says.
    fs::write(model.join("pytorch_model.bin"), "ne").unwrap();
    fetch(&url, folder.path()).unwrap();
    assert_eq!(fs::read_to_string(model.join("pytorch_model.bin")).unwrap(), "new");
    // What went there goes here too.
    site.lock().unwrap().remove(0);
    fetch(&url, folder.path()).unwrap();
    assert_eq!(files(&model), [LOCK, TAGS, "pytorch_model.bin"]);
}

#[test]
fn a_url_of_a_weights_file_gives_that_file() {
    let site: Site = Arc::new(Mutex::new(vec![("eva_vit_g.pth", "weights")]));
    let (server, folder) = (serve(&site), tempfile::tempdir().unwrap());
    let path = fetch(&format!("{}/models/blip/eva_vit_g.pth", server.url), folder.path()).unwrap();
    assert!(path.ends_with("eva_vit_g.pth"));
    assert_eq!(fs::read_to_string(path).unwrap(), "weights");
    let missing = fetch(&format!("{}/models/blip/other.pth", server.url), folder.path()).unwrap_err().to_string();
    assert!(missing.contains("/models/blip has no other.pth"), "{missing}");
}

/// The workers of a machine start together.
#[test]
fn what_several_want_is_fetched_once() {
    let site: Site = Arc::new(Mutex::new(vec![("config.json", "{}"), ("model.safetensors", "weights")]));
    let (server, folder) = (serve(&site), tempfile::tempdir().unwrap());
    let url = format!("{}/models/blip", server.url);
    std::thread::scope(|scope| {
        let workers = [(); 4].map(|()| scope.spawn(|| fetch(&url, folder.path())));
        for worker in workers {
            worker.join().unwrap().unwrap();
        }
    });
    assert_eq!(server.asked().iter().filter(|line| line.starts_with("GET")).count(), 2);
}

/// Runs itself again with the variables set, since they belong to a process.
#[test]
fn s3_is_reached_as_the_environment_says() {
    if let Ok(folder) = std::env::var(CHILD) {
        let path =
            fetch("s3://bucket/models/model.bin", Path::new(&folder)).map_err(|error| error.to_string()).unwrap();
        return assert_eq!(fs::read_to_string(path).unwrap(), "weights");
    }
    let server = Server::start(|request| {
        let signed = request.headers.get("authorization").is_some_and(|header| header.contains("Credential=KEY/"));
        match (signed, request.path.as_str()) {
            (true, "/bucket/models/model.bin") => Response::new("200 OK", b"weights")
                .header("ETag", "\"1\"")
                .header("Last-Modified", "Tue, 15 Nov 1994 12:45:26 GMT"),
            _ => Response::new("403 Forbidden", b""),
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().display().to_string();
    let secrets = [("AWS_ACCESS_KEY_ID", "KEY"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let place = [(CHILD, folder.as_str()), ("AWS_ENDPOINT", &server.url), ("AWS_ALLOW_HTTP", "true")];
    let test = "source::store::tests::s3_is_reached_as_the_environment_says";
    let (done, said) = again(test, &[&place[..], &secrets].concat());
    assert!(done, "{said}");
}

#[test]
fn different_urls_have_different_folders() {
    assert_ne!(cache_name("s3://one/blip"), cache_name("s3://two/blip"));
    assert!(cache_name("s3://one/blip").starts_with("blip-"));
}

#[test]
fn a_download_that_breaks_off_leaves_the_file_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, "old").unwrap();
    let broken = || Err(Error::Generic { store: "test", source: "gone".into() });
    let half = Ok(Bytes::from_static(b"ne"));
    let stream = futures::stream::iter([half, broken()]);
    let error = block_on(save(&path, "s3://b/m", 3, stream)).unwrap_err();
    assert!(matches!(error, SourceError::Store { .. }), "{error}");
    let short = futures::stream::iter([Ok(Bytes::from_static(b"ne"))]);
    let error = block_on(save(&path, "s3://b/m", 3, short)).unwrap_err();
    assert!(matches!(error, SourceError::Incomplete { expected: 3, found: 2, .. }), "{error}");
    assert_eq!(files(folder.path()), ["model.safetensors"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
}

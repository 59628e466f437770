//! Images that are not in the rows: behind URLs, at paths, in tar files; each captioned by real workers.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

use crate::harness::{Run, column, corpus, read};

/// Images of the corpus, none of them broken, by the names that they get.
pub fn images() -> BTreeMap<String, Vec<u8>> {
    let rows = read(&corpus().join("00001.parquet"));
    let bytes: &BinaryArray = column(&rows, "jpg");
    (0..12).map(|row| (format!("{row:03}.jpg"), bytes.value(row).to_vec())).collect()
}

/// A table of two text columns.
pub fn table(path: &Path, image: (&str, Vec<String>), caption: &str) {
    let captions: Vec<String> = (0..image.1.len()).map(|row| format!("caption {row}")).collect();
    let columns: [(&str, ArrayRef); 2] =
        [(image.0, Arc::new(StringArray::from(image.1))), (caption, Arc::new(StringArray::from(captions)))];
    let batch = RecordBatch::try_from_iter(columns).expect("two columns");
    let mut writer = ArrowWriter::try_new(fs::File::create(path).expect("created"), batch.schema(), None).unwrap();
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
}

/// Serves the images, and 404 for what is none of them, until the process ends; its port.
fn server(images: BTreeMap<String, Vec<u8>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let images = Arc::new(images);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let images = images.clone();
            thread::spawn(move || answer(&stream, &images));
        }
    });
    port
}

fn answer(mut stream: &TcpStream, images: &BTreeMap<String, Vec<u8>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        let _headers = lines.by_ref().take_while(|line| !line.is_empty()).count();
        let name = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
        let (status, body) = images.get(name).map_or(("404 Not Found", &[][..]), |image| ("200 OK", image));
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).is_err() {
            return;
        }
    }
}

/// Three data sets of the same twelve images: a list of URLs in LAION's columns, with three that can't be had; a table of
/// paths, with two; a tar file.
pub fn inputs(folder: &Path) -> String {
    let (pictures, names) = (folder.join("pictures"), images().into_keys().collect::<Vec<_>>());
    for part in ["pictures", "urls", "paths", "tars"] {
        fs::create_dir(folder.join(part)).expect("created");
    }
    for (name, bytes) in images() {
        fs::write(pictures.join(&name), bytes).expect("written");
        fs::write(pictures.join(name.replace("jpg", "txt")), format!("caption of {name}")).expect("written");
    }
    let port = server(images());
    let other = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let mut urls: Vec<String> = names.iter().map(|name| format!("http://127.0.0.1:{port}/{name}")).collect();
    urls.push(format!("http://127.0.0.1:{port}/gone.jpg"));
    urls.push(format!("http://127.0.0.1:{other}/not-excepted.jpg"));
    urls.push("no URL at all".into());
    table(&folder.join("urls/urls.parquet"), ("URL", urls), "TEXT");
    let paths = names.into_iter().chain(["gone.jpg".into(), "../urls/urls.parquet".into()]).collect();
    table(&folder.join("paths/paths.parquet"), ("file", paths), "text");
    let tar = Command::new("tar")
        .args(["--sort=name", "-cf"])
        .arg(folder.join("tars/00000.tar"))
        .arg("-C")
        .arg(&pictures)
        .arg(".")
        .status();
    assert!(tar.expect("tar starts").success());
    let folder = folder.display();
    format!(
        "fetch: {{ allow_private_hosts: [\"127.0.0.1:{port}\"], retries: 0 }}\n\
         datasets:\n\
         \x20 - {{ name: urls, path: {folder}/urls, images: urls }}\n\
         \x20 - {{ name: paths, path: {folder}/paths, images: {{ paths: {folder}/pictures }},\n\
         \x20     columns: {{ image: file, caption: text }} }}\n\
         \x20 - {{ name: tars, path: {folder}/tars }}\n"
    )
}

#[test]
fn urls_paths_and_tar_files_are_captioned_and_every_row_is_accounted_for() {
    let folder = TempDir::new().expect("a temporary folder");
    let inputs = inputs(folder.path());
    let outputs = [1, 2].map(|workers| {
        let run = Run::capfilt(corpus());
        let plain = fs::read_to_string(run.recipe()).expect("the recipe");
        let dataset = plain.lines().find(|line| line.contains("name: web")).expect("the data set");
        let recipe =
            plain.replace(&format!("datasets:\n{dataset}\n"), &inputs).replace("shard_rows: 10", "shard_rows: 5");
        fs::write(run.recipe(), recipe).expect("written");
        assert_eq!(run.run_locally(workers).code(), Some(0));
        run.verify();
        run.bytes()
    });
    assert_eq!(outputs[0], outputs[1], "two workers write what one does");
    let [output, _] = outputs;
    let manifest: serde_json::Value = serde_json::from_slice(&output["manifest.json"]).expect("JSON");
    let count = |name: &str| manifest["totals"][name].as_u64().expect("a count");
    assert_eq!((count("rows"), count("kept"), count("quarantined")), (15 + 14 + 12, 36, 5), "{manifest}");
    let quarantines = output.into_iter().filter(|(name, _)| name.starts_with("quarantine/"));
    let rows =
        quarantines.flat_map(|(_, bytes)| quern_capfilt::read_quarantine(bytes.into()).expect("a quarantine part"));
    let reasons: Vec<String> = rows.map(|row| format!("{} {} {}", row.id.dataset, row.id.row, row.reason)).collect();
    let expected = [
        "paths 12 image_not_found",
        "paths 13 image_path_invalid",
        "urls 12 fetch_status",
        "urls 13 fetch_refused_address",
        "urls 14 fetch_invalid_url",
    ];
    assert_eq!(reasons, expected);
}

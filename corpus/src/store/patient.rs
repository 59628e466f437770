//! A store that is asked again where it fails in passing.
//!
//! `object_store`'s clients send a request again that was throttled, met a server's error or lost its connection. They give
//! up where a server stays so for minutes, and leave the rest to whoever knows that doing it again is harmless: a body
//! that breaks off without an ETag to go on by, a listing that breaks off between two pages, an upload in parts whose last
//! answer was lost. Here all of it is done again, a few times. What is read of an object is always one version of it, and
//! as long as was promised.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::error::status;

/// Tries after the first.
const RETRIES: u32 = 4;
/// Before the second try; doubled with every further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Words of what waiting does not mend: a request that can't be made, and a machine where no cloud hands out credentials.
const FINAL: [&str; 2] = ["builder error", "169.254.169.254"];
/// What has more bytes is written in parts of so many, each of which is sent again by itself where it fails.
const PART_BYTES: usize = 16 << 20;
/// S3 takes no more parts of an object.
const MAX_PARTS: usize = 10_000;
/// Parts that are under way at a time.
const CONCURRENT_PARTS: usize = 4;

/// A store behind patience.
#[derive(Debug, Clone)]
pub struct Patient {
    inner: Arc<dyn ObjectStore>,
    first_wait: Duration,
    part_bytes: usize,
}

impl Patient {
    /// `inner`, asked again up to four times after 0.5 s, 1 s, 2 s and 4 s.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Patient { inner, first_wait: FIRST_WAIT, part_bytes: PART_BYTES }
    }

    /// As [`Patient::new`], asked again at once, and written to in parts of `part_bytes`: for tests.
    pub fn hasty(inner: Arc<dyn ObjectStore>, part_bytes: usize) -> Self {
        Patient { inner, first_wait: Duration::ZERO, part_bytes }
    }

    /// Does something that is harmless to do again, until it is done or another try promises nothing.
    async fn again<T, F: Future<Output = Result<T>>>(&self, mut attempt: impl FnMut() -> F) -> Result<T> {
        let mut failures = 0;
        loop {
            match attempt().await {
                Err(error) if self.waits(failures, &error).await => failures += 1,
                result => return result,
            }
        }
    }

    /// Waits before another try after `failures` earlier ones; false: there is to be none.
    async fn waits(&self, failures: u32, error: &Error) -> bool {
        if failures >= RETRIES || !may_pass(error) {
            return false;
        }
        // The clients have drawn waits of their own before; these need not be spread any further.
        let wait = self.first_wait * (1 << failures);
        tracing::warn!(%error, ?wait, "a store fails; it is asked again");
        tokio::time::sleep(wait).await;
        true
    }

    /// Writes an object in parts: readers see nothing of it before the last one is there.
    async fn put_in_parts(&self, at: &Path, payload: &PutPayload, options: PutMultipartOptions) -> Result<PutResult> {
        let mut upload = self.inner.put_multipart_opts(at, options).await?;
        let written = send_parts(upload.as_mut(), payload, self.part_bytes).await;
        if written.is_err() {
            // What was sent stays invisible; a store that has just failed may fail at this, too.
            let _ = upload.abort().await;
        }
        written
    }
}

async fn send_parts(upload: &mut dyn MultipartUpload, payload: &PutPayload, part_bytes: usize) -> Result<PutResult> {
    let whole = Bytes::from(payload.clone());
    let part_bytes = part_bytes.max(whole.len().div_ceil(MAX_PARTS));
    let parts = (0..whole.len()).step_by(part_bytes).map(|start| {
        let part = whole.slice(start..whole.len().min(start + part_bytes));
        upload.put_part(part.into())
    });
    let parts: Vec<_> = parts.collect();
    stream::iter(parts).buffer_unordered(CONCURRENT_PARTS).try_collect::<()>().await?;
    upload.complete().await
}

/// Whether another try may do better. A status of 4xx is a refusal, but for those that ask to come back.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Generic { source, .. } => {
            let is_refused = |status| (400..500).contains(&status) && !matches!(status, 408 | 429);
            let text = source.to_string();
            !status(error).is_some_and(is_refused) && !FINAL.iter().any(|words| text.contains(words))
        }
        error => matches!(error, Error::JoinError { .. }),
    }
}

impl fmt::Display for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Patient {
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let is_head = options.head;
        let found = self.again(|| self.inner.get_opts(at, options.clone())).await?;
        let GetResult { payload, meta, range, attributes, extensions } = found;
        let payload = match payload {
            GetResultPayload::Stream(body) if !is_head => {
                let asked = Asked { store: self.clone(), at: at.clone(), options, meta: meta.clone() };
                let reading = Reading { asked, left: range.clone(), body, failures: 0 };
                GetResultPayload::Stream(stream::try_unfold(reading, Reading::next).boxed())
            }
            payload => payload,
        };
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    /// A conditional put whose answer is lost finds its own object at the next try, and says so as if it were another's.
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let is_large = payload.content_length() > self.part_bytes && matches!(options.mode, PutMode::Overwrite);
        self.again(|| async {
            if is_large {
                let PutOptions { tags, attributes, extensions, .. } = options.clone();
                let options = PutMultipartOptions { tags, attributes, extensions };
                match self.put_in_parts(at, &payload, options).await {
                    // A web server takes an object at once or not at all.
                    Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => {}
                    result => return result,
                }
            }
            self.inner.put_opts(at, payload.clone(), options.clone()).await
        })
        .await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.again(|| self.inner.put_multipart_opts(at, options.clone())).await
    }

    fn delete_stream(&self, places: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = places.and_then(move |at| {
            let store = store.clone();
            async move {
                store.again(|| store.inner.delete(&at)).await?;
                Ok(at)
            }
        });
        deleted.boxed()
    }

    /// As a whole: not every store lists in an order in which a listing that broke off could be taken up.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move { store.again(|| store.inner.list(prefix.as_ref()).try_collect::<Vec<_>>()).await };
        stream::once(listed).map_ok(|found| stream::iter(found.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.again(|| self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.again(|| self.inner.copy_opts(from, to, options.clone())).await
    }
}

/// An object that is being read.
struct Reading {
    asked: Asked,
    /// Bytes that have not come yet.
    left: Range<u64>,
    body: BoxStream<'static, Result<Bytes>>,
    failures: u32,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        while !self.left.is_empty() {
            let error = match self.body.next().await {
                Some(Ok(bytes)) if bytes.len() as u64 <= self.left.end - self.left.start => {
                    self.left.start += bytes.len() as u64;
                    return Ok(Some((bytes, self)));
                }
                Some(Ok(_)) => return Err(broken("more bytes came than were asked for")),
                Some(Err(error)) => error,
                None => broken("the answer ended early"),
            };
            if !self.asked.store.waits(self.failures, &error).await {
                return Err(error);
            }
            self.failures += 1;
            self.body = self.asked.rest(self.left.clone()).await?;
        }
        Ok(None)
    }
}

/// What was asked for, and which version of it is being read.
struct Asked {
    store: Patient,
    at: Path,
    options: GetOptions,
    meta: ObjectMeta,
}

impl Asked {
    /// What has not come yet, of the same version.
    async fn rest(&self, left: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let options = GetOptions { range: Some(GetRange::Bounded(left)), ..self.options.clone() };
        let found = self.store.again(|| self.store.inner.get_opts(&self.at, options.clone())).await?;
        let version = |meta: &ObjectMeta| (meta.e_tag.clone(), meta.size, meta.last_modified);
        if version(&found.meta) != version(&self.meta) {
            return Err(broken("it changed while it was read"));
        }
        Ok(found.into_stream())
    }
}

fn broken(what: &'static str) -> Error {
    Error::Generic { store: "store", source: what.into() }
}

#[cfg(test)]
mod tests;

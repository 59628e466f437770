//! A store that answers as a far one does: every request takes a while, however many are under way.

use std::fmt;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

/// Objects that a listing of S3 holds per request.
const LISTED_PER_REQUEST: usize = 1_000;

/// A store and what each of its requests takes.
#[derive(Debug)]
pub struct SlowStore<S> {
    /// Who answers.
    pub inner: S,
    /// How long a request takes beside what `inner` needs.
    pub latency: Duration,
}

impl<S: ObjectStore> SlowStore<S> {
    async fn wait(&self) {
        tokio::time::sleep(self.latency).await;
    }
}

impl<S: ObjectStore> fmt::Display for SlowStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?} per request", self.inner, self.latency)
    }
}

#[async_trait::async_trait]
impl<S: ObjectStore> ObjectStore for SlowStore<S> {
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.wait().await;
        self.inner.get_opts(at, options).await
    }

    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.wait().await;
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.wait().await;
        self.inner.put_multipart_opts(at, options).await
    }

    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let latency = self.latency;
        let pages = self.inner.list(prefix).chunks(LISTED_PER_REQUEST).then(move |page| async move {
            tokio::time::sleep(latency).await;
            futures::stream::iter(page)
        });
        pages.flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.wait().await;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.wait().await;
        self.inner.copy_opts(from, to, options).await
    }
}

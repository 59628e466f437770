//! An upload in parts that fails where the script says so.

use async_trait::async_trait;
use futures::FutureExt;
use object_store::path::Path;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use crate::{Faulty, Op, lost};

#[derive(Debug)]
pub(crate) struct Upload {
    pub store: Faulty,
    pub at: Path,
    pub inner: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, at, part) = (self.store.clone(), self.at.clone(), self.inner.put_part(data));
        async move {
            let fault = store.begin(Op::Part, &at).await?;
            part.await?;
            fault.map_or(Ok(()), |_| Err(lost()))
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = self.store.begin(Op::Complete, &self.at).await?;
        let put = self.inner.complete().await?;
        fault.map_or(Ok(put), |_| Err(lost()))
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.begin(Op::Abort, &self.at).await?;
        self.inner.abort().await
    }
}

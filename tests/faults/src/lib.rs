//! An object store that fails as it is told to, for the tests of what uses one.
//!
//! ```
//! use std::sync::Arc;
//! use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
//! use quern_faults::{Fault, Faulty, Op};
//!
//! # futures::executor::block_on(async {
//! let store = Faulty::new(Arc::new(InMemory::new()), |call| {
//!     (call.op == Op::Put && call.before == 0).then_some(Fault::Throttled)
//! });
//! let at = Path::from("a");
//! assert!(store.put(&at, "x".into()).await.is_err());
//! assert!(store.put(&at, "x".into()).await.is_ok());
//! # });
//! ```

mod storm;
mod upload;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

pub use self::storm::storm;

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// An object, or a range of it.
    Get,
    /// What is known of an object.
    Head,
    /// An object, at once.
    Put,
    /// An upload in parts is begun.
    Begin,
    /// A part of it.
    Part,
    /// Its end, with which the object appears.
    Complete,
    /// It is given up.
    Abort,
    /// A listing.
    List,
    /// An object's end.
    Delete,
}

/// One thing that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What.
    pub op: Op,
    /// The object or, for a listing, the folder.
    pub path: String,
    /// Where the bytes end that are asked for: who takes reading up again asks for the same end.
    pub end: Option<u64>,
    /// How often the same was asked of it before.
    pub before: usize,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 503, `SlowDown`: nothing is done.
    Throttled,
    /// 500: nothing is done.
    Failed,
    /// 403: nothing is done.
    Denied,
    /// It is done after a while.
    Slow(Duration),
    /// The connection is lost in the middle: half of a body or listing has come; half of an object has been written.
    Torn,
    /// A body ends in the middle as if that were all of it.
    Short,
    /// It is done, and the answer is lost.
    Unanswered,
}

type Script = dyn Fn(&Call) -> Option<Fault> + Send + Sync;

/// A store that fails where its script says so.
#[derive(Clone)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    state: Arc<State>,
}

/// Operation, path and end.
type Asked = (Op, String, Option<u64>);

struct State {
    script: Box<Script>,
    calls: Mutex<Vec<Call>>,
    counts: Mutex<BTreeMap<Asked, usize>>,
}

impl Faulty {
    /// `inner`, which fails where `script` names a fault for a call.
    pub fn new(inner: Arc<dyn ObjectStore>, script: impl Fn(&Call) -> Option<Fault> + Send + Sync + 'static) -> Self {
        let state = State { script: Box::new(script), calls: Mutex::default(), counts: Mutex::default() };
        Faulty { inner, state: Arc::new(state) }
    }

    /// How often `op` was asked.
    pub fn asked(&self, op: Op) -> usize {
        self.state.calls.lock().expect("no panic").iter().filter(|call| call.op == op).count()
    }

    /// What is to become of a call, after the wait that it is to have.
    async fn fate(&self, op: Op, path: &Path, end: Option<u64>) -> Option<Fault> {
        let call = {
            let mut counts = self.state.counts.lock().expect("no panic");
            let count = counts.entry((op, path.to_string(), end)).or_default();
            *count += 1;
            Call { op, path: path.to_string(), end, before: *count - 1 }
        };
        let fault = (self.state.script)(&call);
        self.state.calls.lock().expect("no panic").push(call);
        match fault {
            Some(Fault::Slow(wait)) => {
                tokio::time::sleep(wait).await;
                None
            }
            fault => fault,
        }
    }

    async fn begin(&self, op: Op, path: &Path) -> Result<Option<Fault>> {
        self.begin_to(op, path, None).await
    }

    /// What is left of a call's fate once it has begun: a fault before anything is done ends it here.
    async fn begin_to(&self, op: Op, path: &Path, end: Option<u64>) -> Result<Option<Fault>> {
        match self.fate(op, path, end).await {
            Some(Fault::Throttled) => Err(failure("status 503: SlowDown")),
            Some(Fault::Failed) => Err(failure("status 500: InternalError")),
            Some(Fault::Denied) => {
                Err(Error::PermissionDenied { path: path.to_string(), source: "status 403: AccessDenied".into() })
            }
            fault => Ok(fault),
        }
    }
}

fn failure(what: &'static str) -> Error {
    Error::Generic { store: "faulty", source: what.into() }
}

fn lost() -> Error {
    failure("the connection was lost")
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let op = if options.head { Op::Head } else { Op::Get };
        let end = match &options.range {
            Some(GetRange::Bounded(range)) => Some(range.end),
            None if op == Op::Get => self.inner.head(at).await.ok().map(|meta| meta.size),
            _ => None,
        };
        let fault = self.begin_to(op, at, end).await?;
        let mut found = self.inner.get_opts(at, options).await?;
        match fault {
            Some(Fault::Unanswered) => return Err(lost()),
            Some(Fault::Torn) if op == Op::Head => return Err(lost()),
            Some(cut @ (Fault::Torn | Fault::Short)) if op == Op::Get => {
                let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
                let whole = found.bytes().await?;
                let half = Ok(whole.slice(..whole.len() / 2));
                let end = (cut == Fault::Torn).then(|| Err(lost()));
                let payload = GetResultPayload::Stream(stream::iter([half].into_iter().chain(end)).boxed());
                found = GetResult { payload, meta, range, attributes, extensions: Default::default() };
            }
            _ => {}
        }
        Ok(found)
    }

    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.begin(Op::Put, at).await? {
            Some(Fault::Torn | Fault::Short) => {
                let whole = bytes::Bytes::from(payload);
                self.inner.put_opts(at, whole.slice(..whole.len() / 2).into(), options).await?;
                Err(lost())
            }
            Some(Fault::Unanswered) => {
                self.inner.put_opts(at, payload, options).await?;
                Err(lost())
            }
            _ => self.inner.put_opts(at, payload, options).await,
        }
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.begin(Op::Begin, at).await?;
        let inner = self.inner.put_multipart_opts(at, options).await?;
        match fault {
            Some(Fault::Torn | Fault::Short | Fault::Unanswered) => Err(lost()),
            _ => Ok(Box::new(upload::Upload { store: self.clone(), at: at.clone(), inner })),
        }
    }

    fn delete_stream(&self, places: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = places.and_then(move |at| {
            let store = store.clone();
            async move {
                let fault = store.begin(Op::Delete, &at).await?;
                store.inner.delete(&at).await?;
                fault.map_or(Ok(at), |_| Err(lost()))
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let pages = async move {
            let fault = store.begin(Op::List, &prefix).await?;
            let mut found: Vec<Result<ObjectMeta>> = store.inner.list(Some(&prefix)).collect().await;
            if fault.is_some() {
                found.truncate(found.len() / 2);
                found.push(Err(lost()));
            }
            Ok::<_, Error>(stream::iter(found))
        };
        stream::once(pages).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fault = self.begin(Op::List, &prefix.cloned().unwrap_or_default()).await?;
        let found = self.inner.list_with_delimiter(prefix).await?;
        fault.map_or(Ok(found), |_| Err(lost()))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

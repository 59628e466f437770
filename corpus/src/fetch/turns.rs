//! Who may fetch now: so many at a time, and of these so many from one host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Hosts beyond which those that nobody asks any more are forgotten.
const REMEMBERED_HOSTS: usize = 1024;

/// The turns.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    per_host: usize,
    hosts: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A turn; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _all: OwnedSemaphorePermit,
    _host: OwnedSemaphorePermit,
}

impl Turns {
    pub fn new(all: usize, per_host: usize) -> Self {
        Turns { all: Arc::new(Semaphore::new(all)), per_host, hosts: Mutex::default() }
    }

    /// Waits for a turn at `host`. Who waits for a busy host holds nobody up who wants another.
    pub async fn of(&self, host: &str) -> Turn {
        let of_host = self.host(host).acquire_owned().await.expect("never closed");
        let of_all = Arc::clone(&self.all).acquire_owned().await.expect("never closed");
        Turn { _all: of_all, _host: of_host }
    }

    fn host(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(host).and_then(Weak::upgrade) {
            return known;
        }
        if hosts.len() >= REMEMBERED_HOSTS {
            hosts.retain(|_, host| host.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(self.per_host));
        hosts.insert(host.to_owned(), Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_busy_host_holds_nobody_else_up() {
        let turns = Turns::new(3, 2);
        let taken = |host: &'static str| turns.of(host).now_or_never();
        let first = taken("a").expect("a turn");
        let _second = taken("a").expect("a turn");
        assert!(taken("a").is_none(), "two at a host");
        let third = taken("b").expect("a turn");
        assert!(taken("c").is_none(), "three in all");
        drop(third);
        assert!(taken("c").is_some());
        drop(first);
        assert!(taken("a").is_some());
    }

    #[test]
    fn idle_hosts_are_forgotten() {
        let turns = Turns::new(10, 1);
        let _kept = turns.of("kept").now_or_never().expect("a turn");
        for host in 0..REMEMBERED_HOSTS * 2 {
            turns.of(&host.to_string()).now_or_never().expect("a turn");
        }
        assert!(turns.hosts.lock().unwrap().len() <= REMEMBERED_HOSTS);
        assert!(turns.of("kept").now_or_never().is_none());
    }
}

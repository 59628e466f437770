//! How messages are printed that hold a secret.

use std::fmt;

use crate::Credentials;

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Credentials { worker, secret: _, run } = self;
        f.debug_struct("Credentials").field("worker", worker).field("run", run).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LeaseRequest;

    #[test]
    fn a_workers_secret_is_never_printed() {
        let credentials = Credentials { worker: "w7".into(), secret: "hush".into(), run: "r".into() };
        let printed = format!("{:?}", LeaseRequest { credentials: Some(credentials) });
        assert!(printed.contains("w7") && !printed.contains("hush"), "{printed}");
    }
}

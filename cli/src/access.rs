//! Options of commands that start a coordinator: who is let in.

use std::path::PathBuf;

use quern_coordinator::{Access, TlsFiles};
use quern_proto::client::ClientOptions;

use crate::outcome::Failure;

/// Who is let in.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AccessOptions {
    /// The coordinator's certificate (PEM), with those between it and its root: everything is encrypted. It and its key
    /// are read anew when they change.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key (PEM) of --tls-cert.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let in only clients with a certificate that one of these (PEM) vouches for.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Let in only who shows a token of this file: one `ROLE TOKEN [NAME]` per line, where ROLE is viewer, operator or
    /// worker, and TOKEN is the token or sha256: with its digest. It is read anew when it changes.
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Listen beyond this machine even though strangers could take part, or read along.
    #[arg(long)]
    insecure_listen: bool,
    /// Answer health checks, and nothing else, at this address too, without TLS: for probes that know no certificates.
    #[arg(long, value_name = "ADDRESS")]
    health_listen: Option<String>,
    /// Tell whoever has a role which calls there are, and their messages (gRPC server reflection), for tools like grpcurl.
    #[arg(long)]
    reflection: bool,
}

impl AccessOptions {
    /// As the coordinator takes them.
    pub fn access(&self) -> Access {
        let AccessOptions { tls_cert, tls_key, client_ca, tokens, insecure_listen, health_listen, reflection } =
            self.clone();
        let tls = tls_cert.zip(tls_key).map(|(certificate, key)| TlsFiles { certificate, key, client_ca });
        Access { tls, tokens, insecure_listen, health_listen, reflection, ..Access::default() }
    }

    /// Whether workers that show `client` can be let in, as far as that can be known.
    pub fn admits(&self, client: &ClientOptions) -> Result<(), Failure> {
        let missing = |what: &str, asked: &str| {
            Err(Failure::bad_input(format!("{asked} is given, but this command's own workers need {what} too")))
        };
        match () {
            () if self.tokens.is_some() && client.token_file.is_none() => {
                missing("--token-file with a worker's token", "--tokens")
            }
            () if self.client_ca.is_some() && client.cert.is_none() => missing("--cert and --key", "--client-ca"),
            () => Ok(()),
        }
    }
}

//! A client of a coordinator: what it proves who it is with, and how it knows the coordinator.

use std::path::PathBuf;
use std::sync::Arc;

use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::coordinator_client::CoordinatorClient;
use crate::{FileError, Rotating};

/// A client that sends its token with every call, and the trace that the call is part of.
pub type Client = CoordinatorClient<InterceptedService<Channel, Bearer>>;

/// What a client shows, and what it asks the coordinator to show.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct ClientOptions {
    /// The certificates (PEM) that vouch for a coordinator at an https:// URL [default: the system's].
    #[arg(long, value_name = "FILE", env = "QUERN_CA")]
    pub ca: Option<PathBuf>,
    /// This client's certificate (PEM), for a coordinator that asks for one.
    #[arg(long, value_name = "FILE", env = "QUERN_CERT", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The private key (PEM) of --cert.
    #[arg(long, value_name = "FILE", env = "QUERN_KEY", requires = "cert")]
    pub key: Option<PathBuf>,
    /// A file with the token to show, and nothing else; it is read anew when it changes.
    #[arg(long, value_name = "FILE", env = "QUERN_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// The name in the coordinator's certificate, where it isn't the URL's host.
    #[arg(long, value_name = "NAME", env = "QUERN_SERVER_NAME")]
    pub server_name: Option<String>,
}

/// Why a coordinator can't be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The URL is none.
    #[error("this is no coordinator's URL: say http://HOST:PORT or https://HOST:PORT")]
    Address,
    /// A certificate, a key or a token can't be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificates don't fit together.
    #[error("the certificates can't be used: {0}")]
    Certificates(String),
}

impl ClientOptions {
    /// The way to `url`; nothing is sent yet.
    ///
    /// # Errors
    /// When the URL or a file can't be used.
    pub fn endpoint(&self, url: &str) -> Result<Endpoint, ClientError> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| ClientError::Address)?;
        let uri = endpoint.uri();
        if uri.host().is_none_or(str::is_empty) {
            return Err(ClientError::Address);
        }
        match uri.scheme_str() {
            Some("http") => Ok(endpoint),
            Some("https") => {
                endpoint.tls_config(self.tls()?).map_err(|error| ClientError::Certificates(innermost(&error)))
            }
            _ => Err(ClientError::Address),
        }
    }

    /// A client over `channel` that sends the token.
    ///
    /// # Errors
    /// When the token's file can't be used.
    pub fn client(&self, channel: Channel) -> Result<Client, ClientError> {
        Ok(CoordinatorClient::with_interceptor(channel, self.bearer()?))
    }

    /// The options that hand the same on to another process.
    pub fn arguments(&self) -> Vec<std::ffi::OsString> {
        let files =
            [("--ca", &self.ca), ("--cert", &self.cert), ("--key", &self.key), ("--token-file", &self.token_file)];
        let files = files.into_iter().filter_map(|(option, file)| Some((option, file.as_ref()?.into())));
        let name = self.server_name.iter().map(|name| ("--server-name", name.into()));
        files.chain(name).flat_map(|(option, value)| [option.into(), value]).collect()
    }

    fn bearer(&self) -> Result<Bearer, ClientError> {
        let open = |file: &PathBuf| Rotating::open(vec![file.clone()], read_token).map(Arc::new);
        Ok(Bearer(self.token_file.as_ref().map(open).transpose()?))
    }

    fn tls(&self) -> Result<ClientTlsConfig, ClientError> {
        let mut tls = match &self.ca {
            Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(FileError::read(file)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(FileError::read(cert)?, FileError::read(key)?));
        }
        Ok(match &self.server_name {
            Some(name) => tls.domain_name(name),
            None => tls,
        })
    }
}

/// Adds to a call the token, and the trace that it is part of.
#[derive(Debug, Clone)]
pub struct Bearer(Option<Arc<Rotating<AsciiMetadataValue>>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", (*token.now()).clone());
        }
        for (name, value) in quern_telemetry::outgoing() {
            if let (Ok(name), Ok(value)) = (name.parse::<AsciiMetadataKey>(), value.parse()) {
                request.metadata_mut().insert(name, value);
            }
        }
        Ok(request)
    }
}

fn read_token(files: &[PathBuf]) -> Result<AsciiMetadataValue, FileError> {
    let wrong = || FileError::new(&files[0], "it must hold one token, of printable characters without spaces");
    let text = String::from_utf8(FileError::read(&files[0])?).map_err(|_| wrong())?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong());
    }
    let mut value: AsciiMetadataValue = format!("Bearer {token}").parse().map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok(value)
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_refused_at_once() {
        for url in ["", "ftp", "127.0.0.1:7070", "http//host", "ftp://host:1"] {
            assert_eq!(ClientOptions::default().endpoint(url).map(drop), Err(ClientError::Address), "{url}");
        }
        assert!(ClientOptions::default().endpoint("http://127.0.0.1:7070").is_ok());
    }

    #[test]
    fn a_token_is_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "hush-hush-hush-hush\n").unwrap();
        let options = ClientOptions { token_file: Some(file.clone()), ..ClientOptions::default() };
        let mut bearer = options.bearer().unwrap();
        let request = bearer.call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer hush-hush-hush-hush");
        assert!(!format!("{bearer:?} {request:?}").contains("hush"));
        std::fs::write(&file, "two tokens").unwrap();
        let said = options.bearer().unwrap_err().to_string();
        assert!(said.contains("one token") && !said.contains("tokens"), "{said}");
    }
}

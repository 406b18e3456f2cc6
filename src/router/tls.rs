//! TLS on a listener: which certificate a client gets, and what the two agree to speak.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::CipherSuite;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::crypto::aws_lc_rs::Ticketer;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::server::ClientHello;
use tokio_rustls::rustls::server::ResolvesServerCert;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::server::TlsStream;

use crate::certificate;
use crate::certificate::Certificate;

/// What HTTP/2 is called in ALPN (RFC 9113, section 3.2).
const HTTP2: &[u8] = b"h2";

/// How TLS is spoken on a listener.
pub(super) struct Tls {
    /// What was given for it, each a chain with its key.
    pems: Vec<String>,
    /// What these say of themselves.
    pub(super) certificates: Vec<Certificate>,
    /// None where no certificate was ever given.
    acceptor: Option<TlsAcceptor>,
}

impl Tls {
    /// # Errors
    /// What was given cannot be served with.
    pub(super) fn new(pems: Vec<String>) -> io::Result<Self> {
        let acceptor = if pems.is_empty() { None } else { Some(acceptor(&pems)?) };
        let certificates = pems.iter().filter_map(|pem| Certificate::of(pem)).collect();
        Ok(Self { pems, certificates, acceptor })
    }

    /// Whether this was given for it, or nothing new.
    pub(super) fn stays(&self, pems: &[String]) -> bool {
        pems.is_empty() || self.pems == pems
    }

    /// # Errors
    /// The client does not want what we can do, or leaves.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        match &self.acceptor {
            Some(acceptor) => acceptor.accept(stream).await,
            None => Err(io::Error::other("this listener was not given a certificate that can be used")),
        }
    }
}

/// Whether the two have agreed on HTTP/2.
pub(super) fn is_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

/// How TLS is spoken with these certificates: the same for every thread, so that a client may resume with another one.
fn acceptor(pems: &[String]) -> io::Result<TlsAcceptor> {
    static KNOWN: Mutex<Vec<(Vec<String>, Weak<ServerConfig>)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|(_, config)| config.strong_count() > 0);
    let same = known.iter().find(|(of, _)| of == pems).and_then(|(_, config)| config.upgrade());
    let config = match same {
        Some(config) => config,
        None => {
            let config = config(pems)?;
            known.push((pems.to_vec(), Arc::downgrade(&config)));
            config
        }
    };
    Ok(TlsAcceptor::from(config))
}

fn config(pems: &[String]) -> io::Result<Arc<ServerConfig>> {
    let fault = |fault: certificate::Fault| io::Error::other(fault.to_string());
    let held = pems.iter().map(|pem| certificate::pair(pem, pem).map(Arc::new).map_err(fault));
    let held = Held(held.collect::<Result<_, _>>()?);
    let mut provider = aws_lc_rs::default_provider();
    // Of those of TLS 1.3 the one that machines of today do soonest: its hash has instructions of its own.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(held));
    config.ignore_client_order = true;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new().map_err(io::Error::other)?;
    // Each costs an encryption, and a client that comes back needs one.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// The certificates of a listener.
struct Held(Vec<Arc<CertifiedKey>>);

impl Held {
    /// The one that is for a name, or the first.
    fn of(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let is_asked_for =
            |held: &&Arc<CertifiedKey>| name.as_ref().is_some_and(|name| certificate::is_for(held, name));
        // A single one needs no look.
        let asked_for = if self.0.len() > 1 { self.0.iter().find(is_asked_for) } else { None };
        asked_for.or(self.0.first()).cloned()
    }
}

impl ResolvesServerCert for Held {
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of(client.server_name())
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.len())
    }
}

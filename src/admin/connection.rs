//! One request to main, which may be restarting: the kernel lets it wait in main's socket, as callers of its own do.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::Method;
use hyper::Request;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::control::client;
use crate::control::client::ControlError;
use crate::topology::UnitName;
use crate::wire::StatusReport;
use crate::wire::UnitReport;

use super::AdminError;
use super::Refusal;

/// How often, and with which pause, a connection is tried: for half a minute, as long as the supervisor holds a socket for
/// a process that is away.
const ATTEMPTS: u32 = 300;
const PAUSE: Duration = Duration::from_millis(100);

/// For the answer: who was in many rooms is not deactivated in a moment, and main may come up first.
const PATIENCE: Duration = Duration::from_secs(180);

/// Main, by its socket for clients, with the supervisor's, which knows why it is away.
#[derive(Debug)]
pub(super) struct Main {
    socket: PathBuf,
    control: PathBuf,
    patience: Duration,
}

enum Attempt {
    Answered(StatusCode, Bytes),
    /// Nothing of the request has reached anybody.
    Unsent,
    Lost(String),
    /// There was no answer in all this time.
    Late,
}

impl Main {
    pub(super) const fn new(socket: PathBuf, control: PathBuf) -> Self {
        Self { socket, control, patience: PATIENCE }
    }

    /// Asks main and gives its answer; what was not sent, or may be asked twice, is asked again while main restarts.
    ///
    /// # Errors
    /// Every kind of [`AdminError`].
    pub(super) async fn ask(
        &self,
        method: &Method,
        target: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Value, AdminError> {
        for _ in 0..ATTEMPTS {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => {
                    let request = request(method, target, token, body)?;
                    let attempt = tokio::time::timeout(self.patience, attempt(stream, request));
                    match attempt.await.unwrap_or(Attempt::Late) {
                        Attempt::Answered(status, text) => return judge(status, &text),
                        Attempt::Unsent => {}
                        Attempt::Lost(_) if *method == Method::GET => {}
                        Attempt::Lost(why) => return Err(AdminError::Broken(why)),
                        // Whoever hangs so long is not asked once more.
                        Attempt::Late => return Err(self.late(method)),
                    }
                }
                Err(error) => self.explain(&error).await?,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(AdminError::Away("main has not come up within 30 s\n  see why: synvisor status".to_owned()))
    }

    /// Main has the request, and says nothing.
    fn late(&self, method: &Method) -> AdminError {
        let what = format!("main has not answered within {} s", self.patience.as_secs());
        if *method == Method::GET {
            return AdminError::Away(format!("{what}\n  see why: synvisor dump main"));
        }
        AdminError::Broken(format!("{what} (see why: synvisor dump main)"))
    }

    /// Why main cannot be connected to, where waiting does not help.
    async fn explain(&self, error: &io::Error) -> Result<(), AdminError> {
        let shown = || format!("{}: {error}", self.socket.display());
        let kind = error.kind();
        // It was stopped, or does not listen yet, or too many wait there.
        let away = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused, io::ErrorKind::WouldBlock];
        if kind == io::ErrorKind::PermissionDenied {
            return Err(AdminError::NotPermitted(shown()));
        } else if !away.contains(&kind) {
            return Err(AdminError::Failed(shown()));
        }
        let report: Result<StatusReport, _> =
            client::ask(&self.control, Method::GET, "/v1/status", &()).await;
        let units = match report {
            Ok(report) => report.units,
            Err(ControlError::NotRunning) => return Err(AdminError::NotRunning(self.control.clone())),
            Err(ControlError::NotPermitted(why)) => return Err(AdminError::NotPermitted(why)),
            // A supervisor that is about to be another one.
            Err(ControlError::Hindered(..) | ControlError::Refused(_) | ControlError::Broken(_)) => {
                return Ok(());
            }
        };
        let main = units.into_iter().find(|unit| unit.name == UnitName::main());
        let Some(UnitReport { state, reason, .. }) = main else { return Ok(()) };
        match state.as_str() {
            "down" => Err(AdminError::Away(
                "main was stopped, and it alone can do this\n  start it: synvisor start main".to_owned(),
            )),
            "failed" => Err(AdminError::Away(format!(
                "main does not run: {}\n  see what it wrote: synvisor logs main",
                reason.unwrap_or_else(|| "it ended before it was ready".to_owned())
            ))),
            _ => Ok(()),
        }
    }
}

fn request(
    method: &Method,
    target: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> Result<Request<Full<Bytes>>, AdminError> {
    let body = body.map_or_else(String::new, Value::to_string);
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, "synvisor")
        .header(header::CONNECTION, "close")
        .header(header::CONTENT_TYPE, "application/json")
        // A Unix socket has no address, and Synapse wants one (1.163: `synapse/http/site.py`).
        .header("X-Forwarded-For", "127.0.0.1");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    // Whatever is wrong with it, the error must not say what a token was.
    request
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| AdminError::Failed(format!("{target} cannot be asked for")))
}

async fn attempt(stream: UnixStream, request: Request<Full<Bytes>>) -> Attempt {
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await
    else {
        return Attempt::Unsent;
    };
    tokio::spawn(connection);
    let response = match sender.try_send_request(request).await {
        Ok(response) => response,
        Err(mut error) => {
            let unsent = error.take_message().is_some() || is_unwritten(error.error());
            return if unsent { Attempt::Unsent } else { Attempt::Lost(error.error().to_string()) };
        }
    };
    let status = response.status();
    match response.into_body().collect().await {
        Ok(body) => Attempt::Answered(status, body.to_bytes()),
        Err(error) => Attempt::Lost(error.to_string()),
    }
}

/// Whether main had shut the connection before anything came by it: a process that stops does so with those on which it
/// has read nothing, and a request of this size is written as a whole or not at all.
fn is_unwritten(error: &hyper::Error) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| source.kind() == io::ErrorKind::BrokenPipe)
}

fn judge(status: StatusCode, text: &[u8]) -> Result<Value, AdminError> {
    if status.is_success() {
        return serde_json::from_slice(text)
            .map_err(|error| AdminError::Broken(format!("main answered something else than JSON: {error}")));
    }
    let refusal = serde_json::from_slice(text).unwrap_or_else(|_| Refusal {
        text: String::from_utf8_lossy(text).lines().next().unwrap_or_default().to_owned(),
        ..Refusal::default()
    });
    Err(AdminError::Refused(Refusal { status: status.as_u16(), ..refusal }))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\n{\"done\":\"1\"}";

    /// A process that lets `refused` connections go without a look, and answers the next.
    async fn process(listener: UnixListener, refused: usize) -> String {
        for _ in 0..refused {
            drop(listener.accept().await.unwrap());
        }
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        stream.write_all(ANSWER).await.unwrap();
        request.truncate(length);
        String::from_utf8(request).unwrap()
    }

    #[test]
    fn a_refusal_is_read_whatever_it_looks_like() {
        // Mutation: the status dropped: seen red.
        let refused = |text: &str| match judge(StatusCode::BAD_REQUEST, text.as_bytes()) {
            Err(AdminError::Refused(refusal)) => refusal.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(r#"{"errcode": "M_USER_IN_USE", "error": "taken"}"#), "taken (M_USER_IN_USE)");
        assert_eq!(refused("<html>\nno"), "<html> (HTTP 400)");
        assert_eq!(judge(StatusCode::OK, b"{}").unwrap(), serde_json::json!({}));
    }

    #[test]
    fn only_a_refused_token_is_made_anew() {
        let refusal =
            |status, text: &str| Refusal { status, code: "M_FORBIDDEN".to_owned(), text: text.to_owned() };
        assert!(refusal(401, "Invalid access token passed.").is_of_the_token());
        assert!(refusal(403, "You are not a server admin").is_of_the_token());
        assert!(!refusal(403, "Password change disabled").is_of_the_token());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_is_away_is_asked_again_and_tokens_are_sent() {
        // Mutation: what was not sent, or not answered, not asked again: seen red.
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("main.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let main = Main::new(socket, directory.path().join("control.sock"));
        let process = tokio::spawn(process(listener, 2));
        let answer = main.ask(&Method::GET, "/path", Some("a-token"), None).await;
        assert_eq!(answer.unwrap()["done"], "1");
        let request = process.await.unwrap();
        let request = request.to_ascii_lowercase();
        for line in ["get /path http/1.1", "authorization: bearer a-token", "x-forwarded-for: 127.0.0.1"] {
            assert!(request.contains(line), "{request}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_hangs_is_asked_once() {
        // Mutation: asked again: seen red.
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("main.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut main = Main::new(socket, directory.path().join("control.sock"));
        main.patience = Duration::from_millis(1);
        let answer = main.ask(&Method::GET, "/path", None, None).await;
        assert!(
            matches!(&answer, Err(AdminError::Away(why)) if why.contains("synvisor dump main")),
            "{answer:?}"
        );
        let answer = main.ask(&Method::POST, "/path", None, None).await;
        assert!(
            matches!(&answer, Err(AdminError::Broken(why)) if why.contains("has not answered")),
            "{answer:?}"
        );
        // Both wait in the backlog, and nobody else.
        listener.accept().await.unwrap();
        listener.accept().await.unwrap();
        listener.into_std().unwrap().accept().unwrap_err();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn where_nobody_listens_synvisor_does_not_run() {
        // Mutation: the supervisor's socket not heeded: seen red.
        let directory = tempfile::tempdir().unwrap();
        let main = Main::new(directory.path().join("main.sock"), directory.path().join("control.sock"));
        let answer = main.ask(&Method::GET, "/path", None, None).await;
        assert!(matches!(answer, Err(AdminError::NotRunning(_))), "{answer:?}");
    }
}

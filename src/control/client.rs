//! The command line's end of the control socket.

use std::io;
use std::path::Path;

use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::Method;
use hyper::Request;
use hyper::Response;
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::wire::Answer;
use crate::wire::Obstacle;

/// Why the supervisor did not answer as wished.
#[derive(Debug)]
pub enum ControlError {
    /// Nobody listens on the socket.
    NotRunning,
    NotPermitted(String),
    /// The supervisor refused, and says what stands in the way.
    Hindered(Obstacle, String),
    /// The supervisor refused, or could not.
    Refused(String),
    Broken(String),
}

impl ControlError {
    fn connecting(error: &io::Error) -> Self {
        let kind = error.kind();
        if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
            Self::NotRunning
        } else if kind == io::ErrorKind::PermissionDenied {
            Self::NotPermitted(error.to_string())
        } else {
            Self::Broken(error.to_string())
        }
    }
}

fn broken(error: impl std::fmt::Display) -> ControlError {
    ControlError::Broken(error.to_string())
}

/// Sends a request and gives the response's head, its body still coming.
///
/// # Errors
/// When the supervisor cannot be reached or says no.
pub async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: &impl Serialize,
) -> Result<Response<Incoming>, ControlError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| ControlError::connecting(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(broken)?;
    tokio::spawn(connection);
    let body = serde_json::to_vec(body).map_err(broken)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Host", "synvisor")
        .body(Full::new(Bytes::from(body)))
        .map_err(broken)?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.into_body().collect().await.map_err(broken)?.to_bytes();
    let Answer { message: said, obstacle, .. } = serde_json::from_slice(&text).map_err(broken)?;
    Err(match obstacle {
        Some(obstacle) => ControlError::Hindered(obstacle, said),
        None if status == hyper::StatusCode::FORBIDDEN => ControlError::NotPermitted(said),
        None => ControlError::Refused(said),
    })
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// As [`send`], and when the answer is not of the type expected.
pub async fn ask<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: &impl Serialize,
) -> Result<T, ControlError> {
    let response = send(socket, method, path, body).await?;
    let text = response.into_body().collect().await.map_err(broken)?.to_bytes();
    serde_json::from_slice(&text).map_err(broken)
}

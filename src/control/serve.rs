//! One connection to the control socket.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::Limited;
use http_body_util::combinators::BoxBody;
use hyper::Method;
use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::host::layout::Layout;
use crate::supervise::Verb;
use crate::topology::UnitName;
use crate::wire::Answer;
use crate::wire::DumpRequest;
use crate::wire::OrderNews;
use crate::wire::OrderRequest;
use crate::wire::ReloadRequest;
use crate::wire::RollbackRequest;

use super::Command;
use super::logs;

/// An order that names every unit of the largest deployment is far below this, in bytes.
const LARGEST_BODY: usize = 64 * 1024;

pub(super) type Body = BoxBody<Bytes, Infallible>;

/// A body made of what a channel brings.
pub(super) struct Pieces(pub(super) mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

pub(super) async fn connection(
    stream: UnixStream,
    who: Option<String>,
    layout: Layout,
    commands: mpsc::Sender<Command>,
) {
    let service = service_fn(|request| {
        let (layout, commands, who) = (layout.clone(), commands.clone(), who.clone());
        async move {
            let response = match who {
                Some(who) => respond(request, who, &layout, &commands).await,
                None => forbidden(),
            };
            Ok::<_, Infallible>(response)
        }
    });
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!("a client of the control socket left: {error}");
    }
}

async fn respond(
    request: Request<Incoming>,
    who: String,
    layout: &Layout,
    commands: &mpsc::Sender<Command>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/v1/version") => json(StatusCode::OK, &env!("CARGO_PKG_VERSION")),
        (&Method::GET, "/v1/status") => match ask(commands, Command::Status).await {
            Some(report) => json(StatusCode::OK, &report),
            None => stopping(),
        },
        (&Method::GET, "/v1/plan") => match ask(commands, Command::Plan).await {
            Some(report) => json(StatusCode::OK, &report),
            None => stopping(),
        },
        (&Method::GET, "/v1/generations") => match ask(commands, Command::Generations).await {
            Some(generations) => json(StatusCode::OK, &generations),
            None => stopping(),
        },
        (&Method::POST, "/v1/reload") => {
            match body::<Option<ReloadRequest>>(request, "{\"migration\": \"one_way\"}").await {
                Ok(wish) => {
                    let wish = wish.unwrap_or_default();
                    answer(ask(commands, |reply| Command::Reload(who, wish, reply)).await)
                }
                Err(refusal) => *refusal,
            }
        }
        (&Method::POST, "/v1/self-upgrade") => {
            answer(ask(commands, |reply| Command::SelfUpgrade(who, reply)).await)
        }
        (&Method::POST, "/v1/rollback") => {
            match body::<RollbackRequest>(request, "{\"generation\": 3}").await {
                Ok(RollbackRequest { generation }) => {
                    answer(ask(commands, |reply| Command::Rollback(who, generation, reply)).await)
                }
                Err(refusal) => *refusal,
            }
        }
        (&Method::POST, "/v1/dump") => match body::<DumpRequest>(request, "{\"unit\": \"main\"}").await {
            Ok(DumpRequest { unit }) => match ask(commands, |reply| Command::Dump(unit, reply)).await {
                Some(Ok(report)) => json(StatusCode::OK, &report),
                Some(Err(why)) => failure(StatusCode::CONFLICT, &why),
                None => stopping(),
            },
            Err(refusal) => *refusal,
        },
        (&Method::POST, "/v1/start") => order(request, Verb::Start, commands).await,
        (&Method::POST, "/v1/stop") => order(request, Verb::Stop, commands).await,
        (&Method::POST, "/v1/restart") => order(request, Verb::Restart { at_once: false }, commands).await,
        (&Method::GET, path) if path.starts_with("/v1/logs/") => {
            let unit = UnitName::new(path.trim_start_matches("/v1/logs/"));
            logs::respond(&unit, request.uri().query().unwrap_or_default(), layout).await
        }
        (
            _,
            "/v1/version" | "/v1/status" | "/v1/plan" | "/v1/generations" | "/v1/reload" | "/v1/rollback"
            | "/v1/self-upgrade" | "/v1/start" | "/v1/stop" | "/v1/restart" | "/v1/dump",
        ) => failure(StatusCode::METHOD_NOT_ALLOWED, "GET asks, POST orders"),
        _ => failure(
            StatusCode::NOT_FOUND,
            "there are GET /v1/status, /v1/plan, /v1/generations, /v1/version, /v1/logs/UNIT and POST /v1/start, /v1/stop, \
             /v1/restart, /v1/reload, /v1/rollback, /v1/self-upgrade, /v1/dump",
        ),
    }
}

/// Reads a body of JSON, of which none is `null`, or says what one is like.
async fn body<T: DeserializeOwned>(
    request: Request<Incoming>,
    example: &str,
) -> Result<T, Box<Response<Body>>> {
    let refuse = |text: &str| Box::new(failure(StatusCode::BAD_REQUEST, text));
    let collected = Limited::new(request.into_body(), LARGEST_BODY).collect().await;
    let bytes = collected.map_err(|error| refuse(&error.to_string()))?.to_bytes();
    let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
    serde_json::from_slice(text).map_err(|error| refuse(&format!("the body must be like {example}: {error}")))
}

async fn order(request: Request<Incoming>, verb: Verb, commands: &mpsc::Sender<Command>) -> Response<Body> {
    let request = match body::<OrderRequest>(request, "{\"units\": [\"generic-1\"]} or {\"all\": true}").await
    {
        Ok(request) => request,
        Err(refusal) => return *refusal,
    };
    let verb = match verb {
        Verb::Restart { .. } => Verb::Restart { at_once: request.at_once },
        Verb::Start | Verb::Stop => verb,
    };
    let progress = request.progress;
    let (news_in, mut news) = mpsc::unbounded_channel();
    if commands.send(Command::Order(verb, request, news_in)).await.is_err() {
        return stopping();
    }
    if progress {
        return lines(news);
    }
    while let Some(next) = news.recv().await {
        if let OrderNews::Answer(end) = next {
            return answer(Some(end));
        }
    }
    stopping()
}

/// A JSON value a line, as they come.
fn lines(mut news: mpsc::UnboundedReceiver<OrderNews>) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Some(next) = news.recv().await {
            let mut line = serde_json::to_vec(&next).unwrap_or_default();
            line.push(b'\n');
            if sender.send(line.into()).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Pieces(receiver).boxed());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/x-ndjson"));
    response
}

/// Asks the supervisor's loop; none if it has ended.
async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.ok()?;
    answer.await.ok()
}

fn answer(answer: Option<Answer>) -> Response<Body> {
    match answer {
        Some(answer) if answer.ok => json(StatusCode::OK, &answer),
        Some(answer) => json(StatusCode::CONFLICT, &answer),
        None => stopping(),
    }
}

fn stopping() -> Response<Body> {
    failure(StatusCode::SERVICE_UNAVAILABLE, "synvisor has stopped meanwhile")
}

fn forbidden() -> Response<Body> {
    failure(
        StatusCode::FORBIDDEN,
        "only root, synvisor's own user and members of the group synvisor may control it",
    )
}

pub(super) fn failure(status: StatusCode, message: &str) -> Response<Body> {
    json(status, &Answer::failed(message))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

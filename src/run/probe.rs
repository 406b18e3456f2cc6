//! Is it ready? Asked until yes, by one task for each process.

use std::path::Path;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper::Request;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::host::database;
use crate::supervise::Life;
use crate::sys::descriptors;

use super::News;

/// Between two attempts; a process is seldom far from ready when it is asked.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two attempts at a service that is not there.
const LONG_PAUSE: Duration = Duration::from_millis(500);
/// One answer of a process that is well takes milliseconds.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Asks a Synapse process that has said READY whether it answers `/health` and, with `redis`, is connected to one.
///
/// Plain Synapse says READY without a connection to Redis, and without one a worker serves stale caches
/// (`synapse/app/_base.py`, `start`; `synapse/replication/tcp/handler.py`).
pub(super) async fn synapse(
    life: Life,
    socket: std::path::PathBuf,
    redis: bool,
    news: mpsc::UnboundedSender<News>,
) {
    loop {
        match tokio::time::timeout(ATTEMPT, is_ready(&socket, redis)).await {
            Ok(Ok(true)) => {
                let _ = news.send(News::Ready(life));
                return;
            }
            Ok(Ok(false)) => tokio::time::sleep(PAUSE).await,
            Ok(Err(_)) | Err(_) => tokio::time::sleep(LONG_PAUSE).await,
        }
    }
}

async fn is_ready(socket: &Path, redis: bool) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let (status, _) = get(socket, "/health").await?;
    if status != StatusCode::OK {
        return Ok(false);
    }
    if !redis {
        return Ok(true);
    }
    let (_, metrics) = get(socket, "/_synapse/metrics").await?;
    Ok(connections(&String::from_utf8_lossy(&metrics)) >= 1.0)
}

/// Synapse's count of its replication connections, which with Redis is its connection to Redis.
fn connections(metrics: &str) -> f64 {
    let lines = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("synapse_replication_tcp_resource_total_connections"));
    lines.filter_map(|rest| rest.split_whitespace().last()?.parse::<f64>().ok()).sum()
}

pub(super) async fn get(
    socket: &Path,
    path: &str,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TokioIo::new(UnixStream::connect(socket).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let request = Request::get(path)
        .header("Host", "localhost")
        .header("X-Forwarded-For", "127.0.0.1")
        .header("X-Forwarded-Proto", "https")
        .body(Empty::<Bytes>::new())?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    // No task of its own, so that nothing of it is left when the caller loses patience.
    tokio::join!(exchange, connection).0
}

/// A service and how to reach it.
pub(super) struct Service {
    pub(super) which: Which,
    pub(super) config: Config,
    pub(super) password: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Postgres,
    Redis,
}

impl Service {
    async fn reach(&self) -> Result<(), String> {
        match self.which {
            Which::Postgres => database::reach_postgres(&self.config, self.password.as_deref()).await,
            Which::Redis => database::reach_redis(&self.config, self.password.as_deref()).await,
        }
    }

    fn is_embedded(&self) -> bool {
        match self.which {
            Which::Postgres => self.config.database.is_embedded(),
            Which::Redis => self.config.redis.is_embedded(),
        }
    }
}

/// Asks a service until it answers; tells what is wrong whenever that changes.
pub(super) async fn service(life: Life, service: Service, news: mpsc::UnboundedSender<News>) {
    let mut trouble = None;
    loop {
        match service.reach().await {
            Ok(()) => {
                let _ = news.send(News::Ready(life));
                return;
            }
            Err(text) if trouble.as_ref() != Some(&text) => {
                trouble = Some(text.clone());
                let _ = news.send(News::Trouble(life.clone(), text));
            }
            Err(_) => {}
        }
        // The embedded ones are up within a second.
        tokio::time::sleep(if service.is_embedded() { PAUSE } else { LONG_PAUSE }).await;
    }
}

/// Asks a service that answered, again and again, until it does not.
pub(super) async fn absence(
    life: Life,
    service: Service,
    mut pause: Duration,
    interval: Duration,
    news: mpsc::UnboundedSender<News>,
) {
    loop {
        tokio::time::sleep(pause).await;
        pause = interval;
        // Where we cannot open a descriptor, a connection that failed says nothing of who is at its other end.
        if let Err(why) = service.reach().await
            && descriptors::left()
        {
            let _ = news.send(News::Away(life, why));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_summed_over_labels() {
        let text = "# HELP synapse_replication_tcp_resource_total_connections x\n\
                    synapse_replication_tcp_resource_total_connections{server_name=\"a\"} 1.0\n\
                    synapse_replication_tcp_resource_other 5.0\n";
        assert_eq!(connections(text), 1.0);
        assert_eq!(connections("synapse_replication_tcp_resource_total_connections 0.0\n"), 0.0);
        assert_eq!(connections(""), 0.0);
    }

    /// Answers `/health` and the metrics as a process would that has this many connections to Redis.
    async fn process(listener: tokio::net::UnixListener, connections: &'static str) {
        use tokio::io::AsyncReadExt;
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 1024];
            let read = stream.read(&mut head).await.unwrap();
            let metrics = head[..read].starts_with(b"GET /_synapse/metrics ");
            let body = if metrics {
                format!("synapse_replication_tcp_resource_total_connections {connections}\n")
            } else {
                "OK".to_owned()
            };
            let length = body.len();
            let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_process_without_its_connection_to_redis_is_not_ready() {
        // Mutation: the metric not asked for: seen red.
        let dir = tempfile::tempdir().unwrap();
        for (connections, redis, ready) in [("0.0", true, false), ("1.0", true, true), ("0.0", false, true)] {
            let path = dir.path().join(format!("{connections}-{redis}.sock"));
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let task = tokio::spawn(process(listener, connections));
            assert_eq!(is_ready(&path, redis).await.unwrap(), ready, "{connections} {redis}");
            task.abort();
        }
    }
}

//! A unit's log over the control socket.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncSeekExt;
use tokio::sync::mpsc;

use crate::host::layout::Layout;
use crate::topology::UnitName;

use super::serve::Body;
use super::serve::Pieces;
use super::serve::failure;

/// Lines shown when nobody says how many.
const LINES: usize = 100;
/// How much of a log is searched for the last lines: 4 MiB.
const SEARCHED: u64 = 4 * 1024 * 1024;
/// Between two looks at a log that is followed.
const PAUSE: Duration = Duration::from_millis(200);
/// How much of a log is read at once.
const PIECE: usize = 64 * 1024;

/// The last lines of a log, and with `follow=1` every line that comes.
pub(super) async fn respond(unit: &UnitName, query: &str, layout: &Layout) -> Response<Body> {
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let lines = value("lines").map_or(Some(LINES), |lines| lines.parse().ok());
    let Some(lines) = lines else { return failure(StatusCode::BAD_REQUEST, "lines must be a number") };
    let name = unit.as_str();
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return failure(StatusCode::BAD_REQUEST, "the name of a unit has letters, digits and dashes only");
    }
    let path = layout.log(unit);
    if !tokio::fs::try_exists(&path).await.unwrap_or(false) {
        let message = format!("{unit} has no log yet; `synvisor status` lists the units");
        return failure(StatusCode::NOT_FOUND, &message);
    }
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(send(path, lines, value("follow") == Some("1"), sender));
    Response::new(Pieces(receiver).boxed())
}

/// Sends until the log is at its end, or the reader has left.
async fn send(path: PathBuf, lines: usize, follow: bool, pieces: mpsc::Sender<Bytes>) {
    let Ok((mut offset, last)) = last_lines(&path, lines).await else { return };
    if pieces.send(last).await.is_err() || !follow {
        return;
    }
    loop {
        let Ok(piece) = read_from(&path, &mut offset).await else { return };
        if piece.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = pieces.closed() => return,
            }
        } else if pieces.send(piece).await.is_err() {
            return;
        }
    }
}

async fn last_lines(path: &PathBuf, lines: usize) -> std::io::Result<(u64, Bytes)> {
    let mut file = File::open(path).await?;
    let length = file.metadata().await?.len();
    let begin = length.saturating_sub(SEARCHED);
    file.seek(SeekFrom::Start(begin)).await?;
    let mut text = Vec::new();
    file.take(length - begin).read_to_end(&mut text).await?;
    let ends = text.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    // The end of the last line is not the beginning of one that is shown.
    let start =
        ends.skip_while(|at| at + 1 == text.len()).nth(lines.saturating_sub(1)).map_or(0, |at| at + 1);
    let shown = if lines == 0 { text.len() } else { start };
    Ok((length, Bytes::from(text.split_off(shown))))
}

async fn read_from(path: &PathBuf, offset: &mut u64) -> std::io::Result<Bytes> {
    let mut file = File::open(path).await?;
    if file.metadata().await?.len() < *offset {
        // It was moved aside and begins anew.
        *offset = 0;
    }
    file.seek(SeekFrom::Start(*offset)).await?;
    let mut piece = vec![0; PIECE];
    let read = file.read(&mut piece).await?;
    piece.truncate(read);
    *offset += read as u64;
    Ok(Bytes::from(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_last_lines_are_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        crate::sys::fs::replace(&path, b"one\ntwo\nthree\n", 0o600, None).unwrap();
        let shown =
            async |lines| String::from_utf8(last_lines(&path, lines).await.unwrap().1.to_vec()).unwrap();
        assert_eq!(shown(0).await, "");
        assert_eq!(shown(1).await, "three\n");
        assert_eq!(shown(2).await, "two\nthree\n");
        assert_eq!(shown(9).await, "one\ntwo\nthree\n");
    }
}

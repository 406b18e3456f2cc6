//! The router's end of its connection to the supervisor.

use std::io;
use std::rc::Rc;

use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::sys::lines::Lines;
use crate::sys::socket;
use crate::wire::ToRouter;

use super::state::State;

/// Takes the supervisor's connections, the newest of which is in force.
pub(super) async fn serve(listener: UnixListener, allowed_uids: Vec<u32>, state: Rc<State>) {
    let mut present: Option<JoinHandle<()>> = None;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept the supervisor's connection: {error}");
                tokio::time::sleep(super::PAUSE).await;
                continue;
            }
        };
        match socket::peer(&stream) {
            Ok((uid, _)) if allowed_uids.contains(&uid) => {}
            Ok((uid, _)) => {
                tracing::warn!("user {uid} tried to steer the router and was refused");
                continue;
            }
            Err(_) => continue,
        }
        if let Some(old) = present.take() {
            old.abort();
        }
        let state = Rc::clone(&state);
        present = Some(tokio::task::spawn_local(async move {
            if let Err(error) = talk(stream, &state).await {
                tracing::warn!("the supervisor's connection broke: {error}");
            }
        }));
    }
}

async fn talk(stream: UnixStream, state: &Rc<State>) -> io::Result<()> {
    let mut lines = Lines::new(stream);
    let (sender, mut messages) = mpsc::unbounded_channel();
    state.adopt(sender);
    loop {
        tokio::select! {
            line = lines.receive() => {
                // At its end the table stays in force: the supervisor may be back.
                let Some(line) = line? else { return Ok(()) };
                let message: ToRouter = serde_json::from_str(&line)?;
                let descriptors = lines.descriptors(message.descriptors())?;
                state.obey(message, descriptors).await?;
            }
            Some(message) = messages.recv() => {
                lines.send(&serde_json::to_vec(&message)?, &[]).await?;
            }
        }
    }
}

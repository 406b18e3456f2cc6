//! The router's end of its connection to the supervisor.

use std::future::pending;
use std::io;

use tokio::net::UnixListener;
use tokio::sync::mpsc;

use crate::sys::lines::Lines;
use crate::sys::socket;
use crate::wire::FromRouter;
use crate::wire::ToRouter;

use super::team::Answer;
use super::team::Team;

/// Takes the supervisor's connections, the newest of which is in force.
pub(super) async fn serve(
    listener: UnixListener,
    allowed_uids: Vec<u32>,
    mut team: Team,
    mut answers: mpsc::UnboundedReceiver<Answer>,
) {
    let mut supervisor: Option<Lines> = None;
    loop {
        let done = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    match socket::peer(&stream) {
                        Ok((uid, _)) if allowed_uids.contains(&uid) => supervisor = Some(Lines::new(stream)),
                        Ok((uid, _)) => tracing::warn!("user {uid} tried to steer the router and was refused"),
                        Err(_) => {}
                    }
                    Ok(())
                }
                Err(error) => {
                    tracing::warn!("cannot accept the supervisor's connection: {error}");
                    tokio::time::sleep(super::PAUSE).await;
                    Ok(())
                }
            },
            line = receive(&mut supervisor) => match line {
                Ok(Some((message, lines))) => {
                    let descriptors = lines.descriptors(message.descriptors());
                    descriptors.and_then(|descriptors| team.tell(&message, descriptors))
                }
                // At its end the table stays in force: the supervisor may be back.
                Ok(None) => {
                    supervisor = None;
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Some((number, said)) = answers.recv() => match said.map(|said| team.hear(number, said)) {
                Ok(Some(said)) => send(&mut supervisor, &said).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = done {
            tracing::warn!("the supervisor's connection broke: {error}");
            supervisor = None;
        }
    }
}

/// The next message of a supervisor, if there is one.
async fn receive(supervisor: &mut Option<Lines>) -> io::Result<Option<(ToRouter, &mut Lines)>> {
    let Some(lines) = supervisor else { return pending().await };
    let Some(line) = lines.receive().await? else { return Ok(None) };
    Ok(Some((serde_json::from_str(&line)?, lines)))
}

/// A supervisor that is gone asks again when it is back.
async fn send(supervisor: &mut Option<Lines>, said: &FromRouter) -> io::Result<()> {
    let Some(lines) = supervisor else { return Ok(()) };
    lines.send(&serde_json::to_vec(said)?, &[]).await
}

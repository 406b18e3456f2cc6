//! The verbs that talk to a daemon or need none.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;

use crate::control::client;
use crate::control::client::ControlError;
use crate::host::layout;
use crate::host::toml;
use crate::topology::UnitName;
use crate::wire::Answer;
use crate::wire::DumpReport;
use crate::wire::DumpRequest;
use crate::wire::Generation;
use crate::wire::Obstacle;
use crate::wire::OrderNews;
use crate::wire::OrderRequest;
use crate::wire::OverallState;
use crate::wire::PlanReport;
use crate::wire::RollbackRequest;
use crate::wire::StatusReport;
use crate::wire::UnitReport;

use super::Exit;
use super::output;
use super::output::fail;

/// How often, and with which pause, one asks whether the new synvisor serves: for a minute.
const UPGRADE_ATTEMPTS: u32 = 600;
const UPGRADE_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn status(config: &Path, json: bool) -> Exit {
    let report = match ask::<StatusReport>(config, Method::GET, "/v1/status", &()) {
        Ok(report) => report,
        Err(exit) => return exit,
    };
    if json {
        return print_json(&report);
    }
    output::raw(output::status(&report).as_bytes());
    Exit::Done
}

pub(super) fn order(config: &Path, verb: &str, request: OrderRequest) -> Exit {
    tell(config, &format!("/v1/{verb}"), &request)
}

/// Prints what became of each unit as it comes.
pub(super) fn restart(config: &Path, request: OrderRequest, json: bool) -> Exit {
    let ended = with_daemon(config, async |socket| {
        let mut body = client::send(&socket, Method::POST, "/v1/restart", &request).await?.into_body();
        let (mut text, mut headed) = (Vec::new(), false);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ControlError::Broken(error.to_string()))?;
            text.extend_from_slice(&frame.into_data().unwrap_or_default());
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(OrderNews::Reached(summary)) if !json => {
                        if !std::mem::replace(&mut headed, true) {
                            output::line(output::summary_head());
                        }
                        output::line(output::summary(&summary));
                    }
                    Ok(OrderNews::Reached(_)) => {}
                    Ok(OrderNews::Answer(answer)) => return Ok(answer),
                    Err(error) => return Err(ControlError::Broken(error.to_string())),
                }
            }
        }
        Err(ControlError::Broken("synvisor has stopped meanwhile".to_owned()))
    });
    let answer = match ended {
        Ok(answer) => answer,
        Err(exit) => return exit,
    };
    match (json, answer.ok) {
        (true, true) => print_json(&answer),
        (true, false) => {
            print_json(&answer);
            Exit::Failed
        }
        (false, true) => Exit::Done,
        (false, false) => fail(&answer.message),
    }
}

pub(super) fn plan(config: &Path, json: bool) -> Exit {
    let report = match ask::<PlanReport>(config, Method::GET, "/v1/plan", &()) {
        Ok(report) => report,
        Err(exit) => return exit,
    };
    match report {
        PlanReport::Planned { empty, text, plan, warnings } => {
            output::problems(&warnings);
            if json {
                output::line(format!("{plan:#}"));
            } else {
                output::raw(text.as_bytes());
            }
            if empty { Exit::Done } else { Exit::Changes }
        }
        PlanReport::Refused { message } => fail(&message),
        PlanReport::Busy { message } => {
            output::problem(message);
            Exit::Busy
        }
        PlanReport::Unusable { message } => {
            output::problems(&message);
            Exit::Config
        }
    }
}

pub(super) fn reload(config: &Path) -> Exit {
    tell(config, "/v1/reload", &())
}

pub(super) fn rollback(config: &Path, generation: Option<u64>) -> Exit {
    tell(config, "/v1/rollback", &RollbackRequest { generation })
}

/// Has another synvisor take over, and waits until it serves.
pub(super) fn self_upgrade(config: &Path) -> Exit {
    let path = "/v1/self-upgrade";
    let before = match ask::<StatusReport>(config, Method::GET, "/v1/status", &()) {
        Ok(before) => before,
        Err(exit) => return exit,
    };
    let upgraded = with_daemon(config, async |socket| {
        match client::ask::<Answer>(&socket, Method::POST, path, &()).await {
            // Only a failure is answered: the conversation ends with the synvisor that it was with.
            Err(ControlError::Broken(_)) | Ok(_) => {}
            Err(error) => return Err(error),
        }
        let mut last = None;
        for _ in 0..UPGRADE_ATTEMPTS {
            if let Ok(after) = client::ask::<StatusReport>(&socket, Method::GET, "/v1/status", &()).await
                && after.takeovers > before.takeovers
            {
                if after.state == OverallState::Ready {
                    return Ok(after);
                }
                last = Some(after);
            }
            tokio::time::sleep(UPGRADE_PAUSE).await;
        }
        last.ok_or_else(|| {
            ControlError::Broken("the new synvisor does not answer; its log says why".to_owned())
        })
    });
    let after = match upgraded {
        Ok(after) => after,
        Err(exit) => return exit,
    };
    let same =
        |unit: &&UnitReport| before.units.iter().any(|old| old.name == unit.name && old.pid == unit.pid);
    let untouched = after.units.iter().filter(|unit| unit.pid.is_some()).filter(same).count();
    output::line(format!(
        "synvisor {} has taken over from {} (pid {}): {untouched} processes go on as they were",
        after.version, before.version, after.pid
    ));
    Exit::Done
}

pub(super) fn generations(config: &Path, json: bool) -> Exit {
    let generations = match ask::<Vec<Generation>>(config, Method::GET, "/v1/generations", &()) {
        Ok(generations) => generations,
        Err(exit) => return exit,
    };
    if json {
        return print_json(&generations);
    }
    output::raw(output::generations(&generations).as_bytes());
    Exit::Done
}

pub(super) fn logs(config: &Path, unit: &UnitName, lines: usize, follow: bool) -> Exit {
    let path = format!("/v1/logs/{unit}?lines={lines}&follow={}", u8::from(follow));
    with_daemon(config, async |socket| {
        let mut body = client::send(&socket, Method::GET, &path, &()).await?.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ControlError::Broken(error.to_string()))?;
            if let Ok(piece) = frame.into_data()
                && !output::raw(&piece)
            {
                break;
            }
        }
        Ok(())
    })
    .map_or_else(|exit| exit, |()| Exit::Done)
}

pub(super) fn dump(config: &Path, unit: UnitName) -> Exit {
    match ask::<DumpReport>(config, Method::POST, "/v1/dump", &DumpRequest { unit }) {
        Ok(report) => {
            output::raw(report.text.as_bytes());
            Exit::Done
        }
        Err(exit) => exit,
    }
}

pub(super) fn version(config: &Path) -> Exit {
    output::line(format!("synvisor {}", env!("CARGO_PKG_VERSION")));
    if let Ok(run) = toml::run_dir(config) {
        let socket = layout::control_socket(&run);
        if let Ok(Ok(version)) = block_on(client::ask::<String>(&socket, Method::GET, "/v1/version", &())) {
            output::line(format!("daemon {version}"));
        }
    }
    Exit::Done
}

fn tell(config: &Path, path: &str, body: &impl serde::Serialize) -> Exit {
    match ask::<Answer>(config, Method::POST, path, body) {
        Ok(answer) => {
            output::line(answer.message);
            Exit::Done
        }
        Err(exit) => exit,
    }
}

pub(super) fn ask<T: serde::de::DeserializeOwned>(
    config: &Path,
    method: Method,
    path: &str,
    body: &impl serde::Serialize,
) -> Result<T, Exit> {
    with_daemon(config, async |socket| client::ask(&socket, method, path, body).await)
}

/// Whether a daemon answers.
///
/// # Errors
/// It does not let us in, or is broken; that was said.
pub(super) fn is_running(config: &Path) -> Result<bool, Exit> {
    is_running_in(&toml::run_dir(config).map_err(|unusable| super::config::refuse(&unusable))?)
}

/// The same where the run directory is known.
///
/// # Errors
/// As [`is_running`].
pub(super) fn is_running_in(run: &Path) -> Result<bool, Exit> {
    let socket = layout::control_socket(run);
    match block_on(client::ask::<String>(&socket, Method::GET, "/v1/version", &())) {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(ControlError::NotRunning)) => Ok(false),
        Ok(Err(error)) => Err(explain(error, &socket.display().to_string())),
        Err(error) => Err(fail(&error.to_string())),
    }
}

/// Runs a conversation with the daemon of a configuration.
fn with_daemon<T>(
    config: &Path,
    talk: impl AsyncFnOnce(PathBuf) -> Result<T, ControlError>,
) -> Result<T, Exit> {
    let run = toml::run_dir(config).map_err(|unusable| super::config::refuse(&unusable))?;
    let socket = layout::control_socket(&run);
    let shown = socket.display().to_string();
    match block_on(talk(socket)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(explain(error, &shown)),
        Err(error) => Err(fail(&error.to_string())),
    }
}

fn explain(error: ControlError, socket: &str) -> Exit {
    match error {
        ControlError::NotRunning => not_running(socket),
        ControlError::NotPermitted(why) => {
            output::problem(format!(
                "{socket} does not let you in: {why}\n  use root, synvisor's own user, or a member of the group synvisor"
            ));
            Exit::NotPermitted
        }
        ControlError::Hindered(obstacle, why) => {
            output::problem(why);
            match obstacle {
                Obstacle::Busy => Exit::Busy,
                Obstacle::Config => Exit::Config,
            }
        }
        ControlError::Refused(why) => fail(&why),
        ControlError::Broken(why) => fail(&format!("the conversation with the daemon broke off: {why}")),
    }
}

pub(super) fn not_running(socket: &str) -> Exit {
    output::problem(format!(
        "synvisor is not running: nobody answers on {socket}\n  \
         once it is set up (synvisor init), start it with: systemctl start synvisor, or synvisor supervise --config FILE"
    ));
    Exit::NotRunning
}

pub(super) fn print_json(value: &impl serde::Serialize) -> Exit {
    match serde_json::to_string_pretty(value) {
        Ok(text) => {
            output::line(text);
            Exit::Done
        }
        Err(error) => fail(&error.to_string()),
    }
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(future))
}

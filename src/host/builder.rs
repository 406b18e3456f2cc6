//! Makes virtualenvs: by uv where it is installed, else by venv and pip, as the user whom they are for.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::config::Config;
use crate::config::recipe;
use crate::config::recipe::Recipe;
use crate::sys::fs;
use crate::sys::lock;
use crate::sys::process;
use crate::sys::users;
use crate::sys::users::User;

use super::program;
use super::venv;
use super::venvs;

/// Where programs are looked for beside the caller's PATH, which for a service may be short.
const PLACES: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/bin", "/root/.local/bin"];

/// What a build goes by beside the recipe.
#[derive(Clone, Debug, Default)]
pub struct Means {
    /// The interpreter to make it with.
    pub python: Option<PathBuf>,
    /// A directory of wheels: nothing is downloaded.
    pub wheels: Option<PathBuf>,
    /// A file of requirements with hashes, which says everything that is installed.
    pub lock: Option<PathBuf>,
    /// The caller's variables that say how the world is reached.
    pub environment: Vec<(OsString, OsString)>,
    /// The caller's PATH.
    pub path: OsString,
}

impl Means {
    /// Those of the caller's variables that matter: proxies, certificates, and pip's and uv's own.
    pub fn of(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut means = Self::default();
        for (name, value) in variables {
            let text = name.to_string_lossy().to_ascii_uppercase();
            if text == "PATH" {
                means.path = value;
            } else if text.ends_with("_PROXY")
                || ["PIP_", "UV_", "SSL_CERT_", "REQUESTS_CA_"].iter().any(|start| text.starts_with(start))
            {
                means.environment.push((name, value));
            }
        }
        means
    }
}

/// Makes the virtualenvs of one homeserver.
pub struct Builder<'a> {
    /// Where they lie.
    home: PathBuf,
    state: &'a Path,
    user: Option<&'a User>,
    means: &'a Means,
    uv: Option<PathBuf>,
}

impl<'a> Builder<'a> {
    /// Makes the directory for them.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(config: &'a Config, user: Option<&'a User>, means: &'a Means) -> Result<Self, String> {
        let state = config.supervisor.state_dir.as_path();
        let home = Recipe::home(state);
        let wrong = |error: String| {
            format!("{error}\n  use root, or the user of [supervisor], with the state directory made")
        };
        fs::directory(state, 0o750, user).map_err(|error| wrong(error.to_string()))?;
        let made = || fs::directory(&home, 0o750, None).map_err(|error| error.to_string());
        users::as_user(user, made).map_err(wrong)?;
        for (option, path) in [("--wheels", &means.wheels), ("--lock", &means.lock)] {
            if let Some(path) = path {
                users::as_user(user, || fs::readable(path).map_err(|error| error.to_string())).map_err(
                    |why| {
                        let name = user.map_or_else(users::own_name, |user| user.name.clone());
                        format!("{option}: {why}\n  put it where {name} can read it: /srv, for instance")
                    },
                )?;
            }
        }
        let mut this = Self { uv: None, home, state, user, means };
        // It may lie where only the caller can run it.
        this.uv = find("uv", &means.path).filter(|uv| {
            let mut command = this.command(uv);
            command.arg("--version");
            output(command, "").is_ok()
        });
        Ok(this)
    }

    /// Makes the virtualenv of a recipe, unless it is there; says each line of pip's. Returns whether it was made.
    ///
    /// # Errors
    /// What is missing or went wrong, and what to do. What was begun is made anew by the next attempt.
    pub fn make(&self, recipe: &Recipe, say: &mut dyn FnMut(&str)) -> Result<bool, String> {
        let place = recipe.venv(self.state);
        if self.works(&place) {
            return Ok(false);
        }
        let _lock = self.lock()?;
        if self.works(&place) {
            return Ok(false);
        }
        self.begin(&place, say)?;
        self.install(recipe, &place, say)?;
        let found = venv::version_in(&place);
        if found.as_deref() != Some(recipe.version.as_str()) {
            let found = found.unwrap_or_else(|| "no Synapse".to_owned());
            return Err(format!(
                "{found} was installed in place of Synapse {}\n  does the lock file name another version?",
                recipe.version
            ));
        }
        self.finish(&place)?;
        Ok(true)
    }

    /// Whether a file says what is installed.
    pub const fn has_lock(&self) -> bool {
        self.means.lock.is_some()
    }

    /// Whether there is a virtualenv, all of it, and its Python is still the one that it was made for: an upgrade of the
    /// system may have put another one in its place.
    fn works(&self, place: &Path) -> bool {
        let of_its_own = |(major, minor)| place.join("lib").join(format!("python{major}.{minor}")).exists();
        venv::is_complete(place) && self.version(&venv::interpreter(place)).is_some_and(of_its_own)
    }

    /// Makes an empty virtualenv in the place of what is there, which is not complete until [`Self::finish`].
    fn begin(&self, place: &Path, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        let python = self.interpreter()?;
        users::as_user(self.user, || {
            let marked = fs::replace(&venv::unfinished_mark(place), b"", 0o644, None);
            marked.and_then(|_| fs::remove_all(place)).map_err(|error| error.to_string())
        })?;
        self.create(&python, place, say)
    }

    fn finish(&self, place: &Path) -> Result<(), String> {
        let mark = venv::unfinished_mark(place);
        users::as_user(self.user, || fs::remove(&mark).map_err(|error| error.to_string()))
    }

    /// The newest version of Synapse that can be had.
    ///
    /// # Errors
    /// The index cannot be asked.
    pub fn newest(&self) -> Result<String, String> {
        let synapse = recipe::any_version();
        let found = if let Some(uv) = &self.uv {
            let mut command = self.command(uv);
            command.args(["pip", "compile", "--quiet", "--no-deps", "--no-header", "--no-annotate"]);
            command.arg("--python").arg(self.interpreter()?);
            command.args(self.offline("--find-links")).arg("-");
            let text = output(command, synapse)?;
            text.lines().find_map(|line| Some(line.split_once("==")?.1.trim().to_owned()))
        } else {
            let tools = self.home.join(".tools");
            let same = |python: PathBuf| self.version(&python) == self.version(&venv::interpreter(&tools));
            if !(self.works(&tools) && same(self.interpreter()?)) {
                let _lock = self.lock()?;
                self.begin(&tools, &mut |_| ())?;
                self.finish(&tools)?;
            }
            let mut command = self.command(&venv::interpreter(&tools));
            command.args(["-I", "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"]);
            command.args(["--ignore-installed", "--report", "-"]);
            command.args(self.offline("--find-links")).arg(synapse);
            let report: serde_json::Value =
                serde_json::from_str(&output(command, "")?).map_err(|error| error.to_string())?;
            report["install"][0]["metadata"]["version"].as_str().map(str::to_owned)
        };
        found.ok_or_else(|| {
            "which version of Synapse is the newest is not known\n  name one: synvisor upgrade 1.163.2"
                .to_owned()
        })
    }

    fn lock(&self) -> Result<lock::Lock, String> {
        users::as_user(self.user, || venvs::lock(self.state))
    }

    /// An interpreter that Synapse can run on: the one that was named, the system's own, or the newest there is.
    fn interpreter(&self) -> Result<PathBuf, String> {
        let (major, least) = venv::OLDEST_PYTHON;
        if let Some(named) = &self.means.python {
            let path = if named.components().count() == 1 {
                find(&named.to_string_lossy(), &self.means.path).unwrap_or_else(|| named.clone())
            } else {
                named.clone()
            };
            return match self.version(&path) {
                Some(version) if version >= (major, least) => Ok(path),
                Some((one, two)) => Err(format!(
                    "{} is Python {one}.{two}, and Synapse needs {major}.{least} or newer\n  name another one with --python",
                    path.display()
                )),
                None => Err(format!("{} is no Python that {} can run", path.display(), self.whom())),
            };
        }
        let names = std::iter::once("python3".to_owned())
            .chain((least..=MOST_PYTHON).rev().map(|minor| format!("python3.{minor}")));
        let found: Vec<PathBuf> = names.filter_map(|name| find(&name, &self.means.path)).collect();
        let versions: Vec<_> = found.iter().map(|path| (path, self.version(path))).collect();
        if let Some((path, _)) = versions.iter().find(|(_, version)| *version >= Some((major, least))) {
            return Ok((*path).clone());
        }
        let there = versions.iter().find_map(|(path, version)| {
            version.map(|(one, two)| format!("{} is {one}.{two}", path.display()))
        });
        let there = there.map_or_else(String::new, |there| format!(": {there}"));
        Err(format!(
            "Synapse needs Python {major}.{least} or newer, and there is none{there}\n  \
             install it: apt-get install python3 python3-venv (Fedora: dnf install python3), or name one with --python"
        ))
    }

    fn version(&self, python: &Path) -> Option<(u32, u32)> {
        let mut command = self.command(python);
        command.args(["-I", "-c", "import sys; print(*sys.version_info[:2])"]);
        let text = output(command, "").ok()?;
        let (major, minor) = text.trim().split_once(' ')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    fn create(&self, python: &Path, place: &Path, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        let mut command;
        if let Some(uv) = &self.uv {
            command = self.command(uv);
            command.args(["venv", "--no-project", "--python"]).arg(python).arg(place);
        } else {
            command = self.command(python);
            command.args(["-I", "-m", "venv"]).arg(place);
        }
        program::run(command, say).map_err(|said| {
            let remedy = if said.contains("ensurepip") {
                "\n  install what it lacks: apt-get install python3-venv"
            } else {
                ""
            };
            format!("no virtualenv can be made at {}:\n{said}{remedy}", place.display())
        })
    }

    fn install(&self, recipe: &Recipe, place: &Path, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        let python = venv::interpreter(place);
        let mut command;
        if let Some(uv) = &self.uv {
            command = self.command(uv);
            command.args(["pip", "install", "--python"]).arg(&python);
        } else {
            command = self.command(&python);
            command.args(["-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]);
            command.args(["--progress-bar", "off"]);
        }
        command.args(self.offline("--find-links"));
        match &self.means.lock {
            Some(lock) => command.args(["--require-hashes", "-r"]).arg(lock),
            None => command.args(recipe.requirements()),
        };
        program::run(command, say).map_err(|said| {
            let what = format!("Synapse {} could not be installed:\n{said}", recipe.version);
            match remedy(&said) {
                Some(remedy) => format!("{what}\n  {remedy}"),
                None => what,
            }
        })
    }

    fn offline(&self, links: &str) -> Vec<OsString> {
        let Some(wheels) = &self.means.wheels else { return Vec::new() };
        vec!["--no-index".into(), links.into(), wheels.into()]
    }

    /// A program that runs as the user whom the virtualenvs are for, and keeps its caches with them.
    #[expect(clippy::disallowed_methods, reason = "runs in a command that has no other children")]
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.means.environment.iter().map(|(name, value)| (name, value)));
        command.env("PATH", PLACES.join(":")).env("LANG", "C.UTF-8").env("HOME", &self.home);
        command.env("PIP_CACHE_DIR", self.home.join(".cache")).env("UV_CACHE_DIR", self.home.join(".cache"));
        command.current_dir(&self.home).stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        process::incapable(&mut command);
        // Whatever ends us: nobody else would, and it holds the lock.
        process::end_with_us(&mut command, Signal::SIGTERM);
        command
    }

    fn whom(&self) -> String {
        self.user.map_or_else(users::own_name, |user| user.name.clone())
    }
}

/// The newest Python that is looked for by its name.
const MOST_PYTHON: u32 = 15;

fn find(program: &str, path: &OsString) -> Option<PathBuf> {
    let places = PLACES.iter().map(PathBuf::from).chain(std::env::split_paths(path));
    places.map(|place| place.join(program)).find(|path| path.is_file())
}

/// What a failure of pip's means on a machine that is new.
fn remedy(said: &str) -> Option<&'static str> {
    let compiler = [
        "pg_config",
        "Python.h",
        "gcc",
        "libpq-fe.h",
        "x86_64-linux-gnu-gcc",
        "No such file or directory: 'cc'",
    ];
    if compiler.iter().any(|sign| said.contains(sign)) {
        return Some(
            "psycopg2 is compiled here, and what that takes is missing: \
             apt-get install gcc python3-dev libpq-dev (Fedora: dnf install gcc python3-devel libpq-devel)",
        );
    }
    if said.contains("No matching distribution") || said.contains("no version of") {
        return Some(
            "is that a version of Synapse, and does it run on this Python? https://pypi.org/project/matrix-synapse/",
        );
    }
    if ["Temporary failure in name resolution", "Connection", "dns error", "timed out"]
        .iter()
        .any(|sign| said.contains(sign))
    {
        return Some(
            "is PyPI reachable from here? a proxy is named by HTTPS_PROXY, a directory of wheels by --wheels",
        );
    }
    if said.contains("No space left") {
        return Some("make room: a virtualenv takes 300 MB");
    }
    None
}

/// What a program prints when it is given a text.
fn output(mut command: Command, text: &str) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let wrong = |error: std::io::Error| format!("{program} cannot be run: {error}");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::piped());
    let mut child = command.spawn().map_err(wrong)?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends without having read it says why.
        let _ = writeln!(input, "{text}");
    }
    let done = child.wait_with_output().map_err(wrong)?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        return Err(match remedy(&said) {
            Some(remedy) => format!("{said}\n  {remedy}"),
            None => said,
        });
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

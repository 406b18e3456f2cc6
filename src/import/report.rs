//! What became of everything that the sources say, by the names that they have for it.

use std::fmt::Write;

/// What became of one thing that a source says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It holds as before.
    Carried,
    /// It holds in another way, or nothing has to hold any more; nobody has to do anything.
    Changed,
    /// It does not hold, and the text says what to do.
    Left,
}

/// What holds of every homeserver that synvisor runs, whatever it ran on before.
const ALWAYS: &str = "Whatever the sources say, synvisor writes these of Synapse's settings itself: `listeners`, `instance_map`, \
                      names of workers, `log_config`, `pid_file`, `media_store_path`, `enable_metrics` and `no_redirect_stdio` \
                      (both true).";

/// One thing that a source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The source, as it was named.
    pub source: String,
    /// A setting of homeserver.yaml, a variable of the playbook or of the environment.
    pub name: String,
    pub verdict: Verdict,
    /// Why, and what to do; empty for what was carried over as it is. Never a secret.
    pub text: String,
}

/// Everything that the sources say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub entries: Vec<Entry>,
}

impl Report {
    /// The report as Markdown, the most pressing first.
    pub fn print(&self, toml: &str) -> String {
        let mut text = format!("# What was imported into {toml}\n\n{ALWAYS}\n");
        let sections = [
            (Verdict::Left, "Not carried over: look at these", "nothing"),
            (Verdict::Changed, "Changed", "nothing"),
            (Verdict::Carried, "Carried over", "nothing"),
        ];
        for (verdict, title, none) in sections {
            let entries: Vec<&Entry> = self.entries.iter().filter(|entry| entry.verdict == verdict).collect();
            let _ = write!(text, "\n## {title}\n");
            if entries.is_empty() {
                let _ = write!(text, "\n- {none}\n");
            }
            let mut sources: Vec<&str> = Vec::new();
            for entry in &entries {
                if !sources.contains(&entry.source.as_str()) {
                    sources.push(&entry.source);
                }
            }
            for source in sources {
                let _ = write!(text, "\n{source}:\n\n");
                let of_source: Vec<&&Entry> = entries.iter().filter(|entry| entry.source == source).collect();
                for (names, told) in folded(&of_source) {
                    let told = told.replace('\n', "\n  ");
                    let sign = if told.is_empty() { "" } else { ": " };
                    let _ = writeln!(text, "- `{}`{sign}{told}", names.join("`, `"));
                }
            }
        }
        text
    }
}

/// Things of which the same is told, together.
fn folded<'e>(entries: &[&&'e Entry]) -> Vec<(Vec<&'e str>, &'e str)> {
    let mut found: Vec<(Vec<&str>, &str)> = Vec::new();
    for entry in entries {
        match found.iter_mut().find(|(_, told)| *told == entry.text) {
            Some((names, _)) => names.push(&entry.name),
            None => found.push((vec![&entry.name], &entry.text)),
        }
    }
    found
}

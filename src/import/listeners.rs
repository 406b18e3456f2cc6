//! Where Synapse listened: for clients and other servers, and for what only an administrator reaches.

use toml::Table;

use super::report::Verdict;
use super::translate::Translator;
use super::yaml::Value;

impl Translator<'_> {
    pub(super) fn listeners(&mut self) {
        let from = self.from;
        let mut forwarded = None;
        for (at, listener) in from.get("listeners").map(Value::list).unwrap_or_default().iter().enumerate() {
            let path = format!("listeners[{at}]");
            let of = listener.at("type").and_then(Value::text).unwrap_or("http");
            let names: Vec<&str> = resources(listener);
            match of {
                "metrics" => {
                    let text = "is the metrics of main: each process has its own on a socket of its own, closed to others";
                    self.note(path, Verdict::Left, format!("{text}; nothing else listens for Prometheus"));
                }
                "manhole" => self.note(
                    path,
                    Verdict::Left,
                    "the manhole is not carried over: `synvisor dump UNIT` shows stacks",
                ),
                _ if !names
                    .iter()
                    .any(|name| ["client", "federation", "media", "consent", "keys"].contains(name)) =>
                {
                    self.note(
                        path,
                        Verdict::Changed,
                        "what processes tell each other goes over Unix sockets",
                    );
                }
                _ => {
                    let believed = listener.at("x_forwarded").and_then(Value::truth).unwrap_or(false);
                    forwarded = Some(forwarded.unwrap_or(false) || believed);
                    self.listener(&path, listener);
                }
            }
        }
        let outside = self.document.listen.iter().any(|listen| {
            listen["address"]
                .as_str()
                .is_some_and(|address| !address.starts_with("127.") && !address.starts_with("[::1]"))
        });
        match forwarded {
            Some(true) if outside || from.container => {
                let text = "only web servers on this machine are believed about clients' addresses (x_forwarded): write the \
                            others into trusted_proxies";
                self.note("listeners", Verdict::Changed, text);
            }
            Some(false) if !from.container => {
                self.document.root.insert("trusted_proxies".to_owned(), toml::Value::Array(Vec::new()));
            }
            Some(_) | None => {}
        }
        if forwarded.is_some() {
            let text = "each [[listen]] answers every path, /_synapse/admin only with admin = true, and compresses nothing";
            self.note("listeners", Verdict::Changed, text);
        }
        if self.document.listen.is_empty() {
            self.note(
                "listeners",
                Verdict::Changed,
                "clients and other servers are answered on 127.0.0.1:8008",
            );
        }
    }

    fn listener(&mut self, path: &str, listener: &Value) {
        if listener.at("tls").and_then(Value::truth) == Some(true) {
            let text = "is with TLS, which is for a web server in front: `synvisor front SERVER --federation-port` prints its \
                        configuration";
            return self.note(path, Verdict::Left, text);
        }
        let Some(port) = listener.at("port").and_then(Value::int) else {
            let text = "is a Unix socket: synvisor's router takes addresses, by default 127.0.0.1:8008; tell the web server in \
                        front";
            return self.note(path, Verdict::Left, text);
        };
        let one = listener.at("bind_address").and_then(Value::text);
        let several = listener.at("bind_addresses").map(Value::list).unwrap_or_default();
        let mut hosts: Vec<&str> = one.into_iter().chain(several.iter().filter_map(Value::text)).collect();
        if hosts.is_empty() {
            // What Synapse binds to (`synapse/config/server.py`, DEFAULT_BIND_ADDRESSES).
            hosts = vec!["::", "0.0.0.0"];
        }
        if self.from.container && hosts.iter().any(|host| ["::", "0.0.0.0", ""].contains(host)) {
            let text = format!("is every address of a container: it is 127.0.0.1:{port} here");
            self.note(path, Verdict::Changed, text);
            hosts = vec!["127.0.0.1"];
        }
        for host in hosts {
            let address = match host {
                "" => format!("0.0.0.0:{port}"),
                "localhost" => format!("127.0.0.1:{port}"),
                host if host.contains(':') => format!("[{host}]:{port}"),
                host => format!("{host}:{port}"),
            };
            if address.parse::<std::net::SocketAddr>().is_err() {
                self.note(path, Verdict::Left, format!("{host} is no IP address: write one into [[listen]]"));
                continue;
            }
            let held = self.document.listen.iter().any(|listen| listen["address"].as_str() == Some(&address));
            if !held {
                let listen = Table::from_iter([("address".to_owned(), address.into())]);
                self.document.listen.push(listen);
            }
        }
    }
}

/// What a listener serves.
pub(super) fn resources(listener: &Value) -> Vec<&str> {
    let resources = listener.at("resources").map(Value::list).unwrap_or_default();
    let names = |resource| Value::at(resource, "names");
    resources
        .iter()
        .filter_map(names)
        .flat_map(|names| names.text().into_iter().chain(names.list().iter().filter_map(Value::text)))
        .collect()
}

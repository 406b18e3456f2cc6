//! HAProxy: sections for its `haproxy.cfg`.

use super::CLIENT;
use super::Front;
use super::PATIENCE;
use super::SERVER;
use super::sites::Share;
use super::sites::Site;

pub(super) fn body(front: &Front) -> String {
    let router = front.router;
    let mut text = "#
# This belongs at the end of /etc/haproxy/haproxy.cfg (HAProxy 2.5 or newer). Each file of /etc/haproxy/certs holds
# certificate and key of one host, one after the other: write where yours are. If you have a frontend for a port, put
# the rules below into that.
"
    .to_owned();
    for port in front.ports() {
        let sites: Vec<&Site> = front.sites.iter().filter(|site| site.ports.contains(&port)).collect();
        text.push_str(&frontend(port, &sites));
    }
    text.push_str(&format!(
        "
backend synvisor
    mode http
    # Not option forwardfor, which keeps what the client wrote.
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto https
    timeout connect 10s
    # Longer than the router lets anybody wait, so that it is the one to say what happened.
    timeout server {PATIENCE}s
    # A connection that failed is tried again, a request that was sent is not: the router knows what may be sent twice.
    retry-on conn-failure
    server router {router}
"
    ));
    text
}

/// What comes in by one port.
fn frontend(port: u16, sites: &[&Site]) -> String {
    let certificates: String =
        sites.iter().map(|site| format!(" crt /etc/haproxy/certs/{}.pem", site.host)).collect();
    let mut text = format!(
        "
frontend synvisor-{port}
    mode http
    bind :{port} ssl{certificates} alpn h2,http/1.1
    bind :::{port} v6only ssl{certificates} alpn h2,http/1.1
    timeout client {PATIENCE}s
    timeout http-request 30s
    timeout http-keep-alive 75s
"
    );
    for site in sites {
        if let Some(answer) = site.answer() {
            text.push_str(&format!(
                "    http-request return status 200 content-type application/json string '{answer}' \
                 hdr Access-Control-Allow-Origin \"*\" if {} {{ path {SERVER} }}\n",
                host_is(site)
            ));
        }
    }
    if let [Site { share: Share::Whole, .. }] = sites {
        text.push_str("    default_backend synvisor\n");
        return text;
    }
    for site in sites {
        let path = match site.share {
            Share::Whole => String::new(),
            Share::WellKnown => format!(" {{ path {CLIENT} }}"),
        };
        text.push_str(&format!("    use_backend synvisor if {}{path}\n", host_is(site)));
    }
    text.push_str("    # What else there is on this port goes here: default_backend …\n");
    text
}

/// Who is meant, with or without a port.
fn host_is(site: &Site) -> String {
    format!("{{ req.hdr(host),host_only -i {} }}", site.host)
}

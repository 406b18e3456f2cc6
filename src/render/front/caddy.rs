//! Caddy: a Caddyfile.

use super::CLIENT;
use super::Front;
use super::IDLE;
use super::SERVER;
use super::sites::Share;
use super::sites::Site;

pub(super) fn body(front: &Front) -> String {
    let router = front.router;
    let mut text = format!(
        "#
# This belongs into /etc/caddy/Caddyfile. Caddy fetches certificates itself, and X-Forwarded-For and X-Forwarded-Proto
# are its own word: what a client wrote there is thrown away, unless trusted_proxies names the client.

(synvisor) {{
	reverse_proxy {router} {{
		transport http {{
			# The router keeps idle connections a little longer: who closes first loses no request.
			keepalive {IDLE}s
		}}
	}}
}}
"
    );
    for site in &front.sites {
        text.push_str(&block(site));
    }
    text
}

fn block(site: &Site) -> String {
    let addresses: Vec<String> = site.ports.iter().map(|port| address(&site.host, *port)).collect();
    let addresses = addresses.join(", ");
    let told = site.answer().map(|answer| {
        format!(
            "	handle {SERVER} {{
		header Access-Control-Allow-Origin *
		header Content-Type application/json
		respond `{answer}`
	}}
"
        )
    });
    let told = told.unwrap_or_default();
    match site.share {
        Share::Whole if told.is_empty() => format!("\n{addresses} {{\n\timport synvisor\n}}\n"),
        Share::Whole => format!("\n{addresses} {{\n{told}\thandle {{\n\t\timport synvisor\n\t}}\n}}\n"),
        Share::WellKnown => format!(
            "
# If you have a site of this name, put what handles /.well-known into that.
{addresses} {{
{told}	handle {CLIENT} {{
		import synvisor
	}}
	handle {{
		respond 404
	}}
}}
"
        ),
    }
}

/// A name alone means port 443.
fn address(host: &str, port: u16) -> String {
    if port == 443 { host.to_owned() } else { format!("{host}:{port}") }
}

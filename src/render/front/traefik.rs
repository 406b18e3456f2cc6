//! Traefik: a file for its file provider, and what it needs in its own configuration.

use crate::config::Parsed;
use crate::config::problem::Problem;

use super::CLIENT;
use super::Front;
use super::IDLE;
use super::PATIENCE;
use super::SERVER;
use super::place;
use super::sites::Share;
use super::sites::Site;
use super::sites::synapse_says;

/// # Errors
/// Somebody else than Synapse would have to say where the homeserver is, and Traefik cannot.
pub(super) fn body(front: &Front, parsed: &Parsed) -> Result<String, Problem> {
    let delegates = front.sites.iter().any(|site| site.delegation.is_some());
    if delegates && !synapse_says(&parsed.config) {
        let what = "serve_server_wellknown is off, and Traefik cannot tell other servers itself where to go";
        let remedy = "remove it, or let them come by port 8448: --federation-port";
        return Err(Problem::error(place(parsed, "[synapse]", "serve_server_wellknown"), what, remedy));
    }
    let entry_points: String = front.ports().into_iter().map(entry_point).collect();
    let routers: String = front.sites.iter().zip(0..).map(|(site, index)| router(site, index)).collect();
    let address = front.router;
    Ok(format!(
        "#
# This belongs into the directory of Traefik's file provider. X-Forwarded-For and X-Forwarded-Proto are Traefik's own word,
# unless forwardedHeaders of the entry point names the client. Traefik's own configuration (traefik.yml) needs:
#
#   entryPoints:
{entry_points}#
# and a certificate resolver of the name below. (sanitizePath is there since Traefik 3.3.6. 3.6.4 to 3.6.6 need all of
# http.encodedCharacters set to true as well.)

http:
  routers:
{routers}
  services:
    synvisor:
      loadBalancer:
        serversTransport: synvisor
        servers:
          - url: \"http://{address}\"

  serversTransports:
    synvisor:
      forwardingTimeouts:
        # The router keeps idle connections a little longer: who closes first loses no request.
        idleConnTimeout: {IDLE}s
"
    ))
}

/// What Traefik's own configuration says of a port.
fn entry_point(port: u16) -> String {
    format!(
        "#     {}:
#       address: \":{port}\"
#       transport:
#         respondingTimeouts:
#           readTimeout: {PATIENCE}s      # how long an upload may take
#       http:
#         sanitizePath: false   # other servers have signed what they ask for
",
        name(port)
    )
}

/// As Traefik's documentation calls the usual one.
fn name(port: u16) -> String {
    if port == 443 { "websecure".to_owned() } else { format!("websecure-{port}") }
}

fn router(site: &Site, index: usize) -> String {
    let host = &site.host;
    let entry_points: Vec<String> = site.ports.iter().map(|port| name(*port)).collect();
    let client = format!("Path(`{CLIENT}`)");
    let (why, paths) = match (site.share, &site.delegation) {
        (Share::Whole, _) => ("", String::new()),
        (Share::WellKnown, None) => ("", format!(" && {client}")),
        (Share::WellKnown, Some(_)) => (
            "    # Traefik gives no answers of its own. Synapse sends other servers here, so that they must find it here.\n",
            format!(" && ({client} || Path(`{SERVER}`) || PathPrefix(`/_matrix/`))"),
        ),
    };
    let name = match index {
        0 => "synvisor".to_owned(),
        _ => format!("synvisor-{}", index + 1),
    };
    format!(
        "{why}    {name}:
      rule: \"Host(`{host}`){paths}\"
      entryPoints: [{}]
      service: synvisor
      tls:
        certResolver: letsencrypt
",
        entry_points.join(", ")
    )
}

//! nginx: a file for its `conf.d`.

use super::CLIENT;
use super::Front;
use super::IDLE;
use super::PATIENCE;
use super::SERVER;
use super::sites::Share;
use super::sites::Site;

pub(super) fn body(front: &Front) -> String {
    let router = front.router;
    let mut text = format!(
        "#
# This belongs into /etc/nginx/conf.d/synvisor.conf. Certificates are where certbot puts them: write where yours are.
# Each client that waits for news takes two of worker_connections, of which Debian's nginx.conf has 768. From 1.25.1 on nginx
# warns of http2 behind listen, and older ones know no other way.

upstream synvisor {{
    server {router};
    keepalive 64;
    # The router keeps idle connections a little longer: who closes first loses no request.
    keepalive_timeout {IDLE}s;
}}
"
    );
    for site in &front.sites {
        text.push_str(&server(site, front.largest_body));
    }
    text
}

fn server(site: &Site, largest_body: u64) -> String {
    let host = &site.host;
    let listen: String = site
        .ports
        .iter()
        .map(|port| format!("    listen {port} ssl http2;\n    listen [::]:{port} ssl http2;\n"))
        .collect();
    let told = site.answer().map(|answer| {
        format!(
            "
    location = {SERVER} {{
        default_type application/json;
        add_header Access-Control-Allow-Origin *;
        return 200 '{answer}';
    }}
"
        )
    });
    let told = told.unwrap_or_default();
    let (hint, location) = match site.share {
        Share::Whole => ("", whole(largest_body)),
        Share::WellKnown => {
            ("# If you have a site of this name, put what follows its certificate into that.\n", client())
        }
    };
    format!(
        "
{hint}server {{
{listen}    server_name {host};
    ssl_certificate /etc/letsencrypt/live/{host}/fullchain.pem;
    ssl_certificate_key /etc/letsencrypt/live/{host}/privkey.pem;
{told}{location}}}
"
    )
}

/// Passes on whatever is asked.
fn whole(largest_body: u64) -> String {
    let size = size(largest_body);
    format!(
        "
    location / {{
        # No path behind the address: with one nginx rewrites what other servers have signed.
        proxy_pass http://synvisor;
        proxy_http_version 1.1;
        proxy_set_header Connection \"\";
        proxy_set_header Host $http_host;
        # Not $proxy_add_x_forwarded_for, which keeps what the client wrote.
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        # What Synapse takes: max_upload_size, and what other servers send. nginx takes it whole before it passes it on,
        # and answers likewise: who is slow does not meet a restart.
        client_max_body_size {size};
        # Longer than the router lets anybody wait, so that it is the one to say what happened.
        proxy_read_timeout {PATIENCE}s;
        proxy_send_timeout {PATIENCE}s;
        # The router knows what may be sent twice.
        proxy_next_upstream off;
    }}
"
    )
}

/// Passes on what Synapse says to clients.
fn client() -> String {
    format!(
        "
    location = {CLIENT} {{
        proxy_pass http://synvisor;
        proxy_http_version 1.1;
        proxy_set_header Connection \"\";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
    }}
"
    )
}

/// Bytes as nginx writes them, in the largest unit that fits.
fn size(bytes: u64) -> String {
    let fitting =
        [(30, "g"), (20, "m"), (10, "k")].into_iter().find(|(shift, _)| bytes.is_multiple_of(1 << shift));
    fitting.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

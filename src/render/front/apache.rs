//! Apache httpd: a file for its `sites-available`.

use super::CLIENT;
use super::Front;
use super::IDLE;
use super::PATIENCE;
use super::SERVER;
use super::sites::Share;
use super::sites::Site;

pub(super) fn body(front: &Front) -> String {
    let mut text = "#
# This belongs into /etc/apache2/sites-available/synvisor.conf; `a2enmod ssl proxy_http headers`, then `a2ensite synvisor`.
# Certificates are where certbot puts them: write where yours are. Each client that waits for news holds a thread: raise
# MaxRequestWorkers, 150 in Debian, above the number of devices.
"
    .to_owned();
    // Debian's ports.conf has 443 itself.
    for port in front.ports().into_iter().filter(|port| *port != 443) {
        text.push_str(&format!("\nListen {port}\n"));
    }
    for site in &front.sites {
        text.push_str(&host(site, front));
    }
    text
}

fn host(site: &Site, front: &Front) -> String {
    let name = &site.host;
    let addresses: Vec<String> = site.ports.iter().map(|port| format!("*:{port}")).collect();
    let addresses = addresses.join(" ");
    let told = site.answer().map(|answer| {
        format!(
            "
    # An error that is none, with a text: Apache has no other way to answer by itself.
    Redirect 200 {SERVER}
    ProxyPass {SERVER} !
    <Location {SERVER}>
        ErrorDocument 200 '{answer}'
        Header always set Content-Type application/json
        Header always set Access-Control-Allow-Origin *
    </Location>
"
        )
    });
    let told = told.unwrap_or_default();
    let (hint, passed) = match site.share {
        Share::Whole => ("", whole(front)),
        Share::WellKnown => (
            "# If you have a site of this name, put what follows its certificate into that.\n",
            client(front),
        ),
    };
    format!(
        "
{hint}<VirtualHost {addresses}>
    ServerName {name}
    SSLEngine on
    SSLCertificateFile /etc/letsencrypt/live/{name}/fullchain.pem
    SSLCertificateKeyFile /etc/letsencrypt/live/{name}/privkey.pem
{told}{passed}</VirtualHost>
"
    )
}

/// Passes on whatever is asked. `retry` is 60 seconds by itself (manual of `mod_proxy`, `ProxyPass`), though 2.4.71 of
/// Debian 12 does not keep to it.
fn whole(front: &Front) -> String {
    let (router, limit) = (front.router, front.largest_body);
    format!(
        "
    # Other servers have signed what they ask for: these two and nocanon leave it as it is.
    AllowEncodedSlashes NoDecode
    MergeSlashes Off
    ProxyPreserveHost On
    # Apache's own headers keep what the client wrote.
    ProxyAddHeaders Off
    RequestHeader set X-Forwarded-For expr=%{{REMOTE_ADDR}}
    RequestHeader set X-Forwarded-Proto https
    # What Synapse takes: max_upload_size, and what other servers send.
    LimitRequestBody {limit}
    # The router waits less long than timeout, so that it is the one to say what happened, and keeps idle connections
    # longer than ttl, since who closes first loses no request. retry=0: else Apache may ask a router that was away once
    # again after a minute only.
    ProxyPass / http://{router}/ nocanon retry=0 timeout={PATIENCE} ttl={IDLE}
"
    )
}

/// Passes on what Synapse says to clients.
fn client(front: &Front) -> String {
    let router = front.router;
    format!(
        "
    <Location {CLIENT}>
        ProxyPass http://{router}{CLIENT} retry=0
        ProxyPreserveHost On
        ProxyAddHeaders Off
        RequestHeader set X-Forwarded-For expr=%{{REMOTE_ADDR}}
        RequestHeader set X-Forwarded-Proto https
    </Location>
"
    )
}

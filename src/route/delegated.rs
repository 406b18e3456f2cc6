//! What Synapse leaves to the Matrix Authentication Service once a configuration names one.

use super::rules::Rule;

/// Patterns of rules for which Synapse then registers nothing (1.163: `auth_delegated` and `config.mas.enabled` in
/// `synapse/rest`); `tests/verify.rs` holds them against the installed one.
const PATTERNS: [&str; 35] = [
    "^/_matrix/client/(api/v1|r0|v3|unstable)/login$",
    "^/_matrix/client/(api/v1|r0|v3|unstable)/login/(cas|sso)/redirect$",
    "^/_matrix/client/(r0|v3)/login/sso/redirect/(?:[A-Za-z0-9_.~-]+)$",
    "^/_matrix/client/(api/v1|r0|v3|unstable)/login/cas/ticket$",
    "^/_synapse/client/oidc/",
    "^/_synapse/client/saml2/",
    "^/_matrix/saml2/",
    "^/_matrix/client/(api/v1|r0|v3|unstable)/logout$",
    "^/_matrix/client/(api/v1|r0|v3|unstable)/logout/all$",
    "^/_matrix/client/(r0|v3|unstable)/refresh$",
    "^/_matrix/client/v1/login/get_token$",
    "^/_matrix/client/unstable/org.matrix.msc3882/login/token$",
    "^/_matrix/client/(r0|v3|unstable)/register/available$",
    "^/_matrix/client/(r0|v3|unstable)/register/email/requestToken$",
    "^/_matrix/client/(r0|v3|unstable)/register/msisdn/requestToken$",
    "^/_matrix/client/(v1|unstable)/register/m.login.registration_token/validity$",
    "^/_matrix/client/unstable/registration/(?:[^/]*)/submit_token$",
    "^/_matrix/client/unstable/add_threepid/email/submit_token$",
    "^/_matrix/client/unstable/add_threepid/msisdn/submit_token$",
    "^/_matrix/client/(r0|v3|unstable)/account/3pid/add$",
    "^/_matrix/client/(r0|v3|unstable)/account/3pid/delete$",
    "^/_matrix/client/(r0|v3|unstable)/account/3pid/email/requestToken$",
    "^/_matrix/client/(r0|v3|unstable)/account/3pid/msisdn/requestToken$",
    "^/_matrix/client/(r0|v3|unstable)/account/deactivate$",
    "^/_matrix/client/(r0|v3|unstable)/account/password$",
    "^/_matrix/client/(r0|v3|unstable)/account/password/email/requestToken$",
    "^/_matrix/client/(r0|v3|unstable)/delete_devices$",
    "^/_synapse/admin/v1/account_validity/validity$",
    "^/_synapse/admin/v1/register$",
    "^/_synapse/admin/v1/registration_tokens$",
    "^/_synapse/admin/v1/registration_tokens/new$",
    "^/_synapse/admin/v1/registration_tokens/(?:[^/]*)$",
    "^/_synapse/admin/v1/reset_password/(?:[^/]*)$",
    "^/_synapse/admin/v1/users/(?:[^/]*)/admin$",
    "^/_synapse/admin/v1/users/(?:[^/]*)/login$",
];

impl Rule {
    /// Whether Synapse answers it only while it looks after sessions and passwords itself.
    pub fn is_delegated(&self) -> bool {
        PATTERNS.contains(&self.pattern)
    }
}

//! The secrets that synvisor keeps for Synapse, each in a file of its own: the old ones, wherever they were.

use crate::config::secret::Secret;

use super::installation::Installation;
use super::report::Verdict;
use super::translate::SECRETS;
use super::translate::Translator;

impl Translator<'_> {
    /// The secrets that synvisor keeps for Synapse.
    pub(super) fn own_secrets(&mut self, signing_key: Option<&str>) {
        for secret in Secret::ALL {
            let setting = secret.setting();
            let by_path = format!("{setting}_path");
            let given = signing_key.filter(|_| secret == Secret::SigningKey).map(str::to_owned);
            let said = self.from.text(setting).filter(|text| !text.is_empty()).map(str::to_owned);
            let (path, named) = match self.from.text(&by_path) {
                Some(path) => (Some(self.from.here(path)), by_path.clone()),
                None if secret == Secret::SigningKey => (default_signing_key(self.from), by_path.clone()),
                None => (None, setting.to_owned()),
            };
            let read = path.as_ref().and_then(|path| self.files.get(path));
            let content = given.or(said).or_else(|| {
                let text = read?.as_ref().ok()?;
                Some(text.trim().to_owned()).filter(|text| !text.is_empty())
            });
            let file = format!("{SECRETS}/{}", secret.file_name());
            match content {
                Some(content) => {
                    self.secrets.insert(secret.file_name().to_owned(), format!("{}\n", content.trim_end()));
                    self.document.secrets.insert(secret.key().to_owned(), file.into());
                }
                None if secret == Secret::SigningKey => {
                    self.document.secrets.insert(secret.key().to_owned(), file.clone().into());
                    let why = match (&path, read) {
                        (Some(_), Some(Err(why))) => why.clone(),
                        (Some(path), _) => format!("{path} was not looked at"),
                        (None, _) => "no source says where it is".to_owned(),
                    };
                    let text = format!(
                        "there is no signing key ({why}): with a new one other servers would not believe that this is the \
                         same homeserver, so the TOML requires the old one. Put it at {file} beside the TOML, mode 0600, or \
                         import once more with --signing-key FILE"
                    );
                    self.note(named, Verdict::Left, text);
                }
                None if path.is_some() => {
                    self.document.secrets.insert(secret.key().to_owned(), file.clone().into());
                    let why = match read {
                        Some(Err(why)) => why.clone(),
                        Some(Ok(_)) => "the file is empty".to_owned(),
                        None => "it was not looked at".to_owned(),
                    };
                    self.note(
                        named,
                        Verdict::Left,
                        format!("{why}: put the secret at {file} beside the TOML, mode 0600"),
                    );
                }
                None => match self.from.elsewhere.get(setting) {
                    Some(why) => {
                        let text = format!("{why}: put it into {file} beside the TOML, mode 0600");
                        self.document.secrets.insert(secret.key().to_owned(), file.into());
                        self.note(setting, Verdict::Left, text);
                    }
                    None => self.note(setting, Verdict::Changed, made_anew(secret)),
                },
            }
        }
        self.document.secrets.insert("signing_key_required".to_owned(), true.into());
    }
}

/// Where Synapse looks for the key if nobody says where it is.
pub(super) fn default_signing_key(from: &Installation) -> Option<String> {
    let name = from.text("server_name")?;
    (!from.directory.is_empty()).then(|| from.here(&format!("{name}.signing.key")))
}

const fn made_anew(secret: Secret) -> &'static str {
    match secret {
        Secret::MacaroonSecretKey => {
            "is made at the first start: what was signed with the old one, like links in mails and guests' tokens, is void"
        }
        Secret::RegistrationSharedSecret => {
            "is made at the first start: synvisor makes its own account for administration with it"
        }
        Secret::FormSecret => {
            "is made at the first start: forms that are open in browsers have to be loaded again"
        }
        Secret::WorkerReplicationSecret | Secret::SigningKey => "is made at the first start",
    }
}

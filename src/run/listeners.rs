//! The router's listening sockets: ours, so that its clients wait while it is away, and addresses come and go alive.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::Arc;

use crate::config::CertificateFiles;
use crate::config::Listen;
use crate::config::collide;
use crate::config::secret::SecretValues;
use crate::sys::socket;
use crate::wire::ListenerSettings;

use super::link::Attached;
use super::store;

/// Every address that is listened at.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    held: BTreeMap<SocketAddr, Held>,
    /// Addresses that the router has not let go of yet, so that nobody else could bind them.
    leaving: BTreeMap<SocketAddr, Arc<TcpListener>>,
}

#[derive(Debug)]
struct Held {
    socket: Arc<TcpListener>,
    settings: ListenerSettings,
    certificates: Vec<Pem>,
}

/// A chain with its private key, as the router is given it.
#[derive(Clone)]
pub(super) struct Pem(pub(super) Arc<str>);

/// Nothing of what it is.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem")
    }
}

/// Sockets that nobody is accepted from yet; closed when they are dropped.
#[derive(Debug, Default)]
pub(super) struct Bound(Vec<(SocketAddr, Arc<TcpListener>)>);

impl Listeners {
    /// Takes the sockets of these addresses from what was kept for us.
    pub(super) fn take_back(&mut self, kept: &mut BTreeMap<SocketAddr, TcpListener>, listen: &[Listen]) {
        for listen in listen {
            if let Some(socket) = kept.remove(&listen.address) {
                self.hold(listen.address, Arc::new(socket));
            }
        }
    }

    fn hold(&mut self, address: SocketAddr, socket: Arc<TcpListener>) {
        let settings = ListenerSettings {
            address,
            admin: false,
            metrics: false,
            tls: false,
            certificates: 0,
            proxy_protocol: false,
        };
        self.held.insert(address, Held { socket, settings, certificates: Vec::new() });
    }

    /// What the sockets are called where they are kept.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.held.keys().map(ToString::to_string)
    }

    /// Binds the addresses that are not held yet, all or none.
    ///
    /// # Errors
    /// With the address and the remedy.
    pub(super) fn bind(&self, listen: &[Listen]) -> Result<Bound, String> {
        let new = listen.iter().map(|listen| listen.address);
        let new = new.filter(|address| !self.held.contains_key(address));
        let bind = |address| match self.leaving.get(&address) {
            Some(socket) => Ok((address, Arc::clone(socket))),
            None => match socket::listen_tcp(address) {
                Ok(socket) => Ok((address, Arc::new(socket))),
                Err(error) => Err(self.cannot_listen(address, &error)),
            },
        };
        new.map(bind).collect::<Result<_, _>>().map(Bound)
    }

    /// Listens at these too, and serves each as this says.
    pub(super) fn take(&mut self, bound: Bound, listen: &[Listen], secrets: &SecretValues) {
        for (address, socket) in bound.0 {
            store::keep_socket(&address.to_string(), &*socket);
            self.hold(address, socket);
        }
        for Listen { address, admin, metrics, tls, proxy_protocol } in listen {
            if let Some(held) = self.held.get_mut(address) {
                held.settings.admin = *admin;
                held.settings.metrics = *metrics;
                held.settings.tls = !tls.is_empty();
                held.settings.proxy_protocol = *proxy_protocol;
            }
        }
        self.certify(listen, secrets);
    }

    /// Gives each the certificates that this says, as they were read.
    pub(super) fn certify(&mut self, listen: &[Listen], secrets: &SecretValues) {
        let pem = |files: &CertificateFiles| {
            files.texts(secrets).map(|(chain, key)| Pem(format!("{chain}\n{key}\n").into()))
        };
        for listen in listen {
            if let Some(held) = self.held.get_mut(&listen.address) {
                held.certificates = listen.tls.iter().filter_map(pem).collect();
                held.settings.certificates = u16::try_from(held.certificates.len()).unwrap_or(u16::MAX);
            }
        }
    }

    /// Listens at no other addresses any more; says whether there were any, of which the router is to be told.
    pub(super) fn close_others(&mut self, listen: &[Listen]) -> bool {
        let stays = |address: &SocketAddr| listen.iter().any(|listen| listen.address == *address);
        let others = self.held.extract_if(.., |address, _| !stays(address));
        let others: Vec<_> = others.map(|(address, held)| (address, held.socket)).collect();
        for (address, _) in &others {
            store::drop_socket(&address.to_string());
        }
        self.leaving.extend(others.iter().cloned());
        !others.is_empty()
    }

    /// Closes what is left and the router has closed: it accepts at `accepting` only.
    pub(super) fn let_go(&mut self, accepting: &[SocketAddr]) {
        self.leaving.retain(|address, _| accepting.contains(address));
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &TcpListener> {
        self.held.values().map(|held| &*held.socket)
    }

    /// All of them, as the router must know them, and what comes with that.
    pub(super) fn all(&self) -> (Vec<ListenerSettings>, Vec<Attached>) {
        let attached = |held: &Held| {
            let certificates = held.certificates.iter().map(|pem| Attached::Certificate(pem.clone()));
            std::iter::once(Attached::Socket(Arc::clone(&held.socket)))
                .chain(certificates)
                .collect::<Vec<_>>()
        };
        let settings = self.held.values().map(|held| held.settings).collect();
        (settings, self.held.values().flat_map(attached).collect())
    }

    fn cannot_listen(&self, address: SocketAddr, error: &io::Error) -> String {
        let kind = error.kind();
        let own = self.held.keys().chain(self.leaving.keys()).find(|held| collide(**held, address));
        if let (io::ErrorKind::AddrInUse, Some(own)) = (kind, own) {
            format!(
                "cannot listen on {address} while clients are served on {own}\n  \
                 apply it by a full restart: systemctl restart synvisor; or give it another port in [[listen]]"
            )
        } else if kind == io::ErrorKind::AddrInUse {
            format!(
                "cannot listen on {address}: the port is taken by another program\n  \
                 find it with: ss -ltnp 'sport = :{}'; or choose another address in [[listen]]",
                address.port()
            )
        } else if kind == io::ErrorKind::PermissionDenied {
            format!(
                "cannot listen on {address}: ports below 1024 need CAP_NET_BIND_SERVICE\n  \
                 choose another address in [[listen]], or run synvisor from its systemd unit"
            )
        } else if kind == io::ErrorKind::AddrNotAvailable {
            format!(
                "cannot listen on {address}: this machine does not have that address\n  \
                 choose one of `ip address` in [[listen]]"
            )
        } else {
            format!("cannot listen on {address}: {error}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use crate::config::secret::SecretSource;

    use super::*;

    fn at(address: SocketAddr) -> Listen {
        Listen { address, admin: false, metrics: false, tls: Vec::new(), proxy_protocol: false }
    }

    /// An address that nobody has at this moment.
    fn free() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn listening(listen: &[Listen]) -> Listeners {
        let mut listeners = Listeners::default();
        let bound = listeners.bind(listen).unwrap();
        listeners.take(bound, listen, &SecretValues::default());
        listeners
    }

    fn addresses(listeners: &Listeners) -> Vec<(SocketAddr, bool)> {
        listeners.all().0.iter().map(|settings| (settings.address, settings.admin)).collect()
    }

    fn answers(address: SocketAddr) -> bool {
        TcpStream::connect(address).is_ok()
    }

    #[test]
    fn one_that_cannot_be_bound_leaves_none_bound() {
        // Mutation: those before it kept: seen red.
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let (new, taken) = (free(), taken.local_addr().unwrap());
        let why = Listeners::default().bind(&[at(new), at(taken)]).unwrap_err();
        assert!(why.starts_with(&format!("cannot listen on {taken}: the port is taken")), "{why}");
        assert!(!answers(new));
    }

    #[test]
    fn our_own_address_in_the_way_is_no_other_program() {
        // Mutation: the case left out: seen red.
        let own = free();
        let listeners = listening(&[at(own)]);
        let every = SocketAddr::new("0.0.0.0".parse().unwrap(), own.port());
        let why = listeners.bind(&[at(every)]).unwrap_err();
        assert!(why.starts_with(&format!("cannot listen on {every} while clients are served on {own}\n")));
        assert!(why.contains("systemctl restart synvisor"));
    }

    #[test]
    fn an_address_stays_bound_until_the_router_has_let_go_of_it() {
        // Mutations, each seen red: sockets of addresses that stay bound anew; those that go dropped at once (it cannot be
        // bound again while the router has it); kept for good.
        let (stays, goes) = (free(), free());
        let both = [at(stays), at(goes)];
        let one = [Listen { admin: true, ..at(stays) }];
        let none = SecretValues::default();
        let mut listeners = listening(&both);
        // The router's copies.
        let (_, router) = listeners.all();
        assert!(listeners.bind(&one).unwrap().0.is_empty());
        listeners.take(Bound::default(), &one, &none);
        let mut all = vec![(stays, true), (goes, false)];
        all.sort_unstable();
        assert_eq!(addresses(&listeners), all, "until the change is made");
        assert!(listeners.close_others(&one));
        assert!(!listeners.close_others(&one));
        assert_eq!(addresses(&listeners), [(stays, true)]);
        listeners.let_go(&[stays, goes]);
        let back = listeners.bind(&both).unwrap();
        drop(router);
        listeners.let_go(&[stays]);
        assert!(answers(goes), "somebody waits to listen at it again");
        listeners.take(back, &both, &none);
        all = vec![(stays, false), (goes, false)];
        all.sort_unstable();
        assert_eq!(addresses(&listeners), all);
        assert!(listeners.close_others(&one));
        listeners.let_go(&[stays]);
        assert!(answers(stays));
        assert!(!answers(goes));
    }

    #[test]
    fn a_certificate_comes_with_the_socket_of_its_listener() {
        let source = |name: &str| SecretSource::Credential(name.to_owned());
        let files = |name: &str| CertificateFiles { certificate: source(name), key: source("key") };
        let mut secrets = SecretValues::default();
        for name in ["one", "other", "key"] {
            secrets.insert(source(name), name.to_owned());
        }
        let mut addresses = [free(), free()];
        addresses.sort_unstable();
        let secured =
            Listen { tls: vec![files("one"), files("missing"), files("other")], ..at(addresses[0]) };
        let listen = [secured, at(addresses[1])];
        let mut listeners = listening(&listen);
        let kinds = |listeners: &Listeners| {
            let (settings, attached) = listeners.all();
            let shown = attached.iter().map(|attached| match attached {
                Attached::Socket(_) => "socket".to_owned(),
                Attached::Certificate(pem) => pem.0.replace('\n', " "),
            });
            let told = settings.iter().map(|settings| (settings.tls, settings.certificates));
            (told.collect::<Vec<_>>(), shown.collect::<Vec<_>>())
        };
        let sockets = vec!["socket".to_owned(); 2];
        assert_eq!(kinds(&listeners), (vec![(true, 0), (false, 0)], sockets));
        listeners.certify(&listen, &secrets);
        let expected = ["socket", "one key ", "other key ", "socket"].map(str::to_owned).to_vec();
        assert_eq!(kinds(&listeners), (vec![(true, 2), (false, 0)], expected));
    }
}

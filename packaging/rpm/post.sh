systemd-tmpfiles --create synvisor.conf || :
systemctl daemon-reload >/dev/null 2>&1 || :
if [ "$1" -ge 2 ]; then
    if systemctl --quiet is-active synvisor.service 2>/dev/null; then
        # The homeserver serves on: only supervisor and router become the new ones.
        synvisor self-upgrade ||
            echo "synvisor: the version before goes on running; systemctl restart synvisor starts this one" >&2
    fi
else
    echo "synvisor: say who it serves in /etc/synvisor/synvisor.toml, then: systemctl enable --now synvisor"
fi

systemd-tmpfiles --create synvisor.conf || :
if [ "$1" -eq 1 ]; then
    echo "synvisor: set it up with: synvisor init, then: systemctl enable --now synvisor"
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    case "$(systemctl show --property=ActiveState --value synvisor.service || :)" in
    active | reloading)
        # The homeserver serves on: only supervisor and router become the new ones.
        synvisor self-upgrade ||
            echo "synvisor: the new version is not in use yet: mend what it says, then: synvisor self-upgrade" >&2
        ;;
    activating)
        echo "synvisor: it is starting; once it runs, the new version takes over by: synvisor self-upgrade" >&2
        ;;
    esac
fi

# Nothing that a clone or a verification has written is removed.
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || :
fi
if [ "$1" = 0 ]; then
    # Only what is empty.
    rmdir /run/pbkfs/* /run/pbkfs /var/lib/pbkfs/* /var/lib/pbkfs 2>/dev/null || :
    [ ! -d /var/lib/pbkfs ] ||
        echo "pbkfs: /var/lib/pbkfs stays, with the histories of verify"
fi

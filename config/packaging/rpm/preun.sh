# Ends what systemd runs, while the program is still there. 0 is a removal; an upgrade
# ends nothing.
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl stop 'pbkfs@*.service' 'pbkfs-verify@*.timer' 'pbkfs-verify@*.service' || :
fi

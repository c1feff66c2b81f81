#!/bin/sh
# Holds the units that are installed against systemd's own judgement: `verify` says
# nothing, and whatever `security` does not like is explained in the unit's comments.
set -eu

units=/usr/lib/systemd/system
export SYSTEMD_LOG_LEVEL=warning

for unit in pbkfs@.service pbkfs-verify@.service pbkfs-verify@.timer; do
    # An instance, as a template alone cannot be loaded by every version.
    instance=$(echo "$unit" | sed 's/@/@main/')
    said=$(systemd-analyze verify --man=no "$instance" 2>&1) || {
        echo "systemd-analyze verify $instance: $said" >&2
        exit 1
    }
    if echo "$said" | grep pbkfs >&2; then
        exit 1
    fi
    echo "    systemd-analyze verify: nothing to say of $instance" >&2
done

for unit in pbkfs@.service pbkfs-verify@.service; do
    instance=$(echo "$unit" | sed 's/@/@main/')
    # One object a line; the names of those that are not set.
    systemd-analyze security --no-pager --json=short "$instance" |
        sed 's/},{/}\n{/g' | grep '"set":false\|"set":null' |
        sed 's/.*"name":"\([^"]*\)".*/\1/' | sort -u >/root/unset
    [ -s /root/unset ] || {
        echo "systemd-analyze security $instance lists nothing that is not set" >&2
        exit 1
    }
    while read -r name; do
        grep '^#' "$units/$unit" | grep -qF "$name" || {
            echo "$unit does not say why not $name" >&2
            exit 1
        }
    done </root/unset
    exposure=$(systemd-analyze security --no-pager "$instance" | tail -n 1)
    echo "    $exposure; each line is explained" >&2
done

#!/bin/sh
# Managed by Ansible (role service). Whether a folder of the laptop is there, before a container starts that needs it:
# without the share, the empty folder under it would become a fresh, empty database.
#
# Usage: shared.sh FOLDER SERVICE
mountpoint --quiet "$1" && exit
why="$1 is not shared with the laptop, so $2 does not start. It is tried again every 2 s.\
 If the folder does not come back: vagrant reload (on the laptop)."
echo "$why" >&2
systemd-notify --status "$why"    # between two starts, `systemctl status` shows no line of the log
exit 1

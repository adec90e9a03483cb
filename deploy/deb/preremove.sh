#!/bin/sh
set -e
# Not on an upgrade: dpkg says "upgrade" then.
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl disable --now meshproxy.service meshproxy.socket || true
fi

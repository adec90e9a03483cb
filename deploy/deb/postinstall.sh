#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl enable --now meshproxy.socket meshproxy.service || true
	# An upgrade: the socket stays, so nobody is refused meanwhile.
	systemctl try-restart meshproxy.service || true
fi

#!/usr/bin/env bash
# tests/install.sh COMMAND:PACKAGE…: installs the Debian packages whose commands (or files, by their whole path) are missing,
# says which, and starts and enables none of their services. Does nothing, and needs no root, when every command is there.
set -euo pipefail

POLICY=/usr/sbin/policy-rc.d

main() {
  local need packages=()
  for need; do
    is_here "${need%%:*}" || packages+=("${need#*:}")
  done
  ((${#packages[@]})) || return 0
  mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
  command -v apt-get >/dev/null ||
    stop "missing here: ${packages[*]} (names on Debian). There is no apt-get, so please install them yourself."
  if ((EUID)); then
    command -v sudo >/dev/null || stop "missing here: ${packages[*]}. As root, run: apt-get install ${packages[*]}"
    exec sudo -- "${BASH_SOURCE[0]}" "$@"
  fi
  echo "Installing with apt, without starting any service: ${packages[*]}" >&2
  install "${packages[@]}"
}

is_here() {
  if [[ $1 == /* ]]; then
    [[ -e $1 ]]
  else
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null
  fi
}

stop() {
  echo "$*" >&2
  exit 1
}

# Debian starts and enables a service when its package is installed. A policy, removed again, forbids the start; what was
# not enabled for the next boot before is not enabled after.
install() {
  local before unit
  before=$(enabled_services)
  LOG=$(mktemp)
  MADE_POLICY=
  trap 'rm -f "$LOG" ${MADE_POLICY:+"$POLICY"}' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  if [[ ! -e $POLICY ]]; then
    MADE_POLICY=yes
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
  fi
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update && apt-get install -y --no-install-recommends "$@"; } >"$LOG" 2>&1 </dev/null; then
    tail -n 20 "$LOG" >&2
    stop "apt could not install: $*"
  fi
  for unit in $(comm -13 <(echo "$before") <(enabled_services)); do
    systemctl disable --quiet "$unit"
  done
}

enabled_services() {
  [[ -d /run/systemd/system ]] || return 0
  systemctl list-unit-files --type=service --state=enabled --no-legend | cut -d' ' -f1 | sort
}

main "$@"

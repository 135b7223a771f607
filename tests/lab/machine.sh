#!/usr/bin/env bash
# tests/lab/machine.sh VERB MACHINE …: does to a machine of the lab what life does to real ones. NSD_LAB names the lab.
set -euo pipefail
# shellcheck source=lab.sh
source "$(dirname "${BASH_SOURCE[0]}")/lab.sh"

usage() {
  cat >&2 <<'TEXT'
usage: machine.sh VERB MACHINE [ARGUMENT…]
  list                          names, addresses and states (needs no machine)
  exec M COMMAND…               run a command inside, as root
  put M FILE PATH               copy a file of this host into the machine
  link-down M | link-up M       pull the cable out, plug it in
  freeze M | thaw M             stop every process in place, let them go on
  kill M | boot M               cut the power, switch on again (the disk is kept)
  docker M off|on|crash         stop, start or kill -9 only the Docker engine
  no-docker M                   the same as: docker M off
  kill-container M NAME         kill -9 a container's first process, as a crash does
  full-disk M on|off            leave no byte free on the machine's disk, free it again
  new-host-key M                give the machine another SSH host key, as a reinstalled one has
TEXT
  exit 64
}

main() {
  local verb=${1:-} name=${2:-}
  lab_require
  [[ -n $verb ]] || usage
  lab_load_number
  if [[ $verb == list ]]; then
    list
    return
  fi
  require_machine "$name"
  shift 2
  case $verb in
    exec) (($#)) && machine_run "$name" "$@" || exit ;;
    put) put "$name" "$@" ;;
    link-down) ip link set "$(machine_link "$name")" down ;;
    link-up) ip link set "$(machine_link "$name")" up ;;
    freeze) freeze "$name" ;;
    thaw) cgroup_freeze "$name" off ;;
    kill)
      machine_kill "$name"
      describe
      ;;
    boot)
      machine_boot "$name"
      describe
      ;;
    docker) engine "$name" "${1:-}" ;;
    no-docker) engine "$name" off ;;
    kill-container) kill_container "$name" "${1:?kill-container needs the name of a container}" ;;
    full-disk) full_disk "$name" "${1:-}" ;;
    new-host-key) new_host_key "$name" ;;
    *) usage ;;
  esac
}

list() {
  local name state
  for name in $(machines); do
    state=off
    if machine_is_running "$name"; then state=on; fi
    if machine_is_frozen "$name"; then state=frozen; fi
    printf '%-10s %-14s %s\n' "$name" "$(address_of "$name")" "$state"
  done
}

put() {
  local pid
  pid=$(machine_pid "$1") || die "$1 is not running"
  cp "$2" "/proc/$pid/root$3"
}

# Frozen means every process is: returns only then.
freeze() {
  local at tries
  cgroup_freeze "$1" on
  at=$(cgroup_root)/$CGROUP/$1
  for tries in {1..100}; do
    if cgroup_is_v2; then
      grep -qx 'frozen 1' "$at/cgroup.events" && return
    else
      grep -qx FROZEN "$at/freezer.state" && return
    fi
    sleep 0.05
  done
  die "$1 does not freeze after $tries tries"
}

engine() {
  local console=$LAB/machines/$1/console.log
  [[ $(role_of "$1") == engine ]] || die "$1 has no Docker engine"
  case $2 in
    off) machine_run "$1" bash /.lab/inside.sh stop docker >>"$console" 2>&1 ;;
    on)
      machine_run "$1" bash /.lab/inside.sh start docker </dev/null >>"$console" 2>&1
      machine_await "$1"
      ;;
    crash)
      machine_run "$1" sh -c 'kill -9 "$(cat /run/docker.pid)"'
      ;;
    *) usage ;;
  esac
}

kill_container() {
  machine_run "$1" sh -c 'kill -9 "$(docker inspect --format "{{.State.Pid}}" "$1")"' sh "$2"
}

# Reserved, not written: a disk of 8 GB is full in a moment and costs this host nothing.
full_disk() {
  case $2 in
    on)
      machine_run "$1" bash -c '
        free() { df --output=avail -B4096 / | tail -n 1; }
        for step in 1 2 3; do
          fallocate -l "$(($(free) * 4096))" "/.lab/full.$step" 2>/dev/null || true
        done
        dd if=/dev/zero of=/.lab/full.rest bs=4096 status=none 2>/dev/null || true
        [[ $(free) -eq 0 ]]' || die "could not fill the disk of $1"
      ;;
    off) machine_run "$1" sh -c 'rm -f /.lab/full.*' ;;
    *) usage ;;
  esac
}

# What the lab describes is the truth; tests that want to see a changed key keep the known_hosts they had.
new_host_key() {
  machine_new_host_key "$1"
  describe
  machine_is_running "$1" || return 0
  put "$1" "$LAB/machines/$1/ssh_host_ed25519_key" /etc/ssh/ssh_host_ed25519_key
  put "$1" "$LAB/machines/$1/ssh_host_ed25519_key.pub" /etc/ssh/ssh_host_ed25519_key.pub
  machine_run "$1" sh -c 'kill -HUP "$(cat /run/lab-ssh.pid)"'
}

main "$@"

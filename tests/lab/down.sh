#!/usr/bin/env bash
# tests/lab/down.sh: removes every trace of the lab that NSD_LAB names, however far up.sh had come.
set -euo pipefail
# shellcheck source=lab.sh
source "$(dirname "${BASH_SOURCE[0]}")/lab.sh"

main() {
  local from=$EPOCHREALTIME name
  lab_require
  lab_lock
  if [[ -s $LAB/number ]]; then
    lab_load_number
    for name in $(machines); do machine_kill "$name"; done
  fi
  cgroup_kill "$CGROUP"
  cgroup_remove "$CGROUP"
  find /sys/fs/cgroup -depth -type d -name nsd-lab -exec rmdir {} \; 2>/dev/null || true # when no other lab is left
  bridge_down
  rm -rf "$LAB"
  rmdir "$LAB_HOME" 2>/dev/null || true # when no other lab is left
  say "gone after $(since "$from")"
}

main "$@"

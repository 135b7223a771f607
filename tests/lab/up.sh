#!/usr/bin/env bash
# tests/lab/up.sh [N]: makes N machines m1…mN (4 when left out) with a registry and a git host beside them.
# What runs already is kept, so it may be called again, also with a larger N. NSD_LAB names the lab.
set -euo pipefail
# shellcheck source=lab.sh
source "$(dirname "${BASH_SOURCE[0]}")/lab.sh"
# shellcheck source=images.sh
source "$LAB_SCRIPTS/images.sh"

main() {
  local count=${1:-4} from=$EPOCHREALTIME
  if [[ ! $count =~ ^[0-9]+$ ]] || ((count < 1 || count > MAX_MACHINES)); then
    die "usage: up.sh [N], with 1 to $MAX_MACHINES machines"
  fi
  lab_require
  lab_require_packages
  lab_lock
  lab_reserve_number
  lab_load_number
  mkdir -p "$LAB/machines"
  [[ -s $LAB/id_ed25519 ]] || ssh-keygen -q -t ed25519 -N '' -C "nsd-lab $LAB_NAME" -f "$LAB/id_ed25519"
  bridge_up
  create_all "$count"
  boot_all
  images_push
  git_host_fill
  describe
  say "up after $(since "$from"): $(machines | tr '\n' ' ')— described in $LAB/lab.json and lab.env"
}

create_all() {
  local name
  for name in git registry $(seq -f 'm%.0f' 1 "$1"); do machine_create "$name"; done
  {
    echo '127.0.0.1 localhost'
    for name in $(machines); do echo "$(address_of "$name") $name"; done
  } >"$LAB/hosts"
}

# All at once; the first that fails fails the lab.
boot_all() {
  local name pids=() pid
  for name in $(machines); do
    machine_boot "$name" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do
    wait "$pid" || die "not all machines came up; tests/lab/down.sh removes what there is"
  done
}

# The sample repository: `main` works, the Dockerfile of `broken` fails while building.
git_host_fill() {
  local pid work
  pid=$(machine_pid git)
  [[ ! -e /proc/$pid/root/srv/git/worker.git ]] || return 0
  work=$LAB/worker.new
  rm -rf "$work"
  cp -r "$LAB_SCRIPTS/worker" "$work"
  sed -i "s|REGISTRY/|$REGISTRY/|" "$work/Dockerfile"
  lab_git -C "$work" init -q -b main
  lab_git -C "$work" add .
  lab_git -C "$work" commit -q -m 'A tiny service'
  lab_git -C "$work" checkout -q -b broken
  echo 'RUN echo this build fails on purpose && false' >>"$work/Dockerfile"
  lab_git -C "$work" commit -q -a -m 'A Dockerfile that fails'
  lab_git -C "$work" checkout -q main
  lab_git clone -q --bare "$work" "$work/bare"
  chown -R 900:900 "$work/bare"
  cp -a "$work/bare" "/proc/$pid/root/srv/git/worker.new"
  mv "/proc/$pid/root/srv/git/worker.new" "/proc/$pid/root/srv/git/worker.git"
  rm -r "$work"
}

# Git as nobody in particular: no user's settings, always the same commits.
lab_git() {
  env -i PATH="$PATH" HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory \
    GIT_CONFIG_VALUE_0='*' GIT_AUTHOR_NAME=lab GIT_AUTHOR_EMAIL=lab@example.org GIT_COMMITTER_NAME=lab \
    GIT_COMMITTER_EMAIL=lab@example.org GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' \
    GIT_COMMITTER_DATE='2024-01-01T00:00:00Z' git "$@"
}

main "$@"

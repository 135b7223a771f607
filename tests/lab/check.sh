#!/usr/bin/env bash
# tests/lab/check.sh: the lab's own test. Makes two machines, uses everything that tests rely on, removes them, also
# after up.sh was killed half-way, and looks for anything left.
# shellcheck disable=SC2154 # LAB_* come from lab.env
set -euo pipefail
export NSD_LAB=${NSD_LAB_CHECK:-check}
# shellcheck source=lab.sh
source "$(dirname "${BASH_SOURCE[0]}")/lab.sh"

main() {
  local from=$EPOCHREALTIME
  lab_require
  lab_require_packages
  "$LAB_SCRIPTS/down.sh" 2>/dev/null
  trap '"$LAB_SCRIPTS/down.sh"' EXIT
  "$LAB_SCRIPTS/up.sh" 2
  lab_load_number
  # shellcheck source=/dev/null
  source "$LAB/lab.env"
  WORK=$(mktemp -d)
  trap '"$LAB_SCRIPTS/down.sh"; rm -rf "$WORK"' EXIT

  check 'ssh with strict host keys' ssh_works
  check 'a changed host key is refused' changed_host_key_is_refused
  check 'engines pull from the registry and run redis' engines_run_redis
  check 'machines reach one another' machines_reach_one_another
  check 'git over ssh, and an image built from it' git_clone_builds
  check 'a machine keeps its files to itself' files_are_private
  check 'a pulled cable is silence, plugged in again it works' cable
  check 'a frozen machine still accepts but does not answer' frozen
  check 'a killed container' killed_container
  check 'a full disk' full_disk
  check 'an engine that is off' engine_off
  check 'a power cut, and on again' power_cut
  check 'up again changes nothing' up_is_idempotent
  remember_namespaces
  "$LAB_SCRIPTS/down.sh"
  check 'nothing is left' nothing_left
  check 'nothing is left after up.sh was killed' killed_up_leaves_nothing
  say "all checks passed in $(since "$from")"
}

# Runs $2 in a subshell with errexit in force; its output appears only when it fails.
check() {
  local from=$EPOCHREALTIME status
  trap - ERR
  set +e
  (
    set -e
    trap 'failed "$BASH_COMMAND" "${BASH_SOURCE[0]}" "$LINENO"' ERR
    "$2"
  ) >"$WORK/output" 2>&1
  status=$?
  set -e
  if ((status)); then
    cat "$WORK/output" >&2
    die "FAILED: $1"
  fi
  say "ok: $1 ($(since "$from"))"
}

machine() { "$LAB_SCRIPTS/machine.sh" "$@"; }

ssh_to() {
  local address=$1
  shift
  ssh -F /dev/null -i "$LAB_IDENTITY" -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=3 \
    -o UserKnownHostsFile="${KNOWN:-$LAB_KNOWN_HOSTS}" -o IdentitiesOnly=yes "$address" "$@"
}

refused() { if "$@"; then return 1; fi; }

# Sends $3 to address $1 port $2 and prints what comes back within a second and a half.
talk() { printf '%b' "$3" | timeout 1.5 busybox nc "$1" "$2"; }

redis_answers() { [[ $(talk "$1" 6379 'PING\r\nQUIT\r\n') == *PONG* ]]; }

eventually() {
  local deadline=$((SECONDS + 10))
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.2
  done
}

ssh_works() {
  [[ $(ssh_to "root@$LAB_m1" hostname) == m1 ]]
  [[ $(ssh_to "root@$LAB_m2" hostname) == m2 ]]
  [[ $(ssh_to "root@$LAB_m2" docker info --format '{{.Driver}}') == overlay2 ]]
}

changed_host_key_is_refused() {
  cp "$LAB_KNOWN_HOSTS" "$WORK/old_known_hosts"
  machine new-host-key m2
  KNOWN=$WORK/old_known_hosts refused ssh_to "root@$LAB_m2" true
  eventually ssh_to "root@$LAB_m2" true
}

engines_run_redis() {
  local address
  for address in "$LAB_m1" "$LAB_m2"; do
    ssh_to "root@$address" docker run -d --name redis -p 6379:6379 "$LAB_REGISTRY/redis:7"
    eventually redis_answers "$address"
    [[ $(ssh_to "root@$address" docker exec redis stat -c %U /proc/1) == redis ]]
  done
  # Two engines, two lists: what runs on one is unknown to the other.
  ssh_to "root@$LAB_m1" docker run -d --name only-here "$LAB_REGISTRY/busybox:1" sleep 600
  refused ssh_to "root@$LAB_m2" docker inspect only-here
}

machines_reach_one_another() {
  local answer
  # shellcheck disable=SC2029
  answer=$(ssh_to "root@$LAB_m1" "printf 'PING\r\nQUIT\r\n' | timeout 2 busybox nc $LAB_m2 6379")
  [[ $answer == *PONG* ]]
  # From inside a container too, through its engine's network.
  answer=$(ssh_to "root@$LAB_m1" docker run --rm "$LAB_REGISTRY/redis:7" redis-cli -h "$LAB_m2" ping)
  [[ $answer == PONG ]]
}

git_clone_builds() {
  local user host
  for user in git root; do
    rm -rf "$WORK/worker"
    GIT_SSH_COMMAND="ssh -F /dev/null -i $LAB_IDENTITY -o BatchMode=yes -o UserKnownHostsFile=$LAB_KNOWN_HOSTS" \
      git clone -q "${LAB_GIT/git@/$user@}/worker.git" "$WORK/worker"
  done
  host=$(jq -r '.machines[0].docker' "$NSD_LAB_JSON")
  DOCKER_BUILDKIT=0 docker -H "$host" build -q -t worker "$WORK/worker"
  docker -H "$host" run -d --name worker -p 8080:8080 worker
  eventually worker_answers
  git -C "$WORK/worker" checkout -q broken
  DOCKER_BUILDKIT=0 refused docker -H "$host" build -q -t worker "$WORK/worker"
}

worker_answers() { [[ $(curl -s --noproxy '*' -m 1 "http://$LAB_m1:8080/") == 'worker 1' ]]; }

files_are_private() {
  local place
  for place in /etc /usr/local /root /var/lib /certs /run /tmp; do
    machine exec m1 touch "$place/lab-check"
    refused machine exec m2 test -e "$place/lab-check"
    [[ ! -e $place/lab-check ]]
  done
}

cable() {
  redis_answers "$LAB_m1"
  machine link-down m1
  refused redis_answers "$LAB_m1"
  machine exec m1 docker inspect redis # it runs on, only nobody hears it
  machine link-up m1
  eventually redis_answers "$LAB_m1"
}

frozen() {
  machine freeze m1
  tcp_answers "$LAB_m1" 6379
  refused redis_answers "$LAB_m1"
  machine thaw m1
  eventually redis_answers "$LAB_m1"
}

killed_container() {
  machine kill-container m1 only-here
  eventually container_is_dead
}

container_is_dead() { [[ $(machine exec m1 docker inspect --format '{{.State.Status}}' only-here) == exited ]]; }

full_disk() {
  machine full-disk m1 on
  refused machine exec m1 sh -c 'echo something >/root/file'
  machine full-disk m1 off
  machine exec m1 sh -c 'echo something >/root/file'
}

engine_off() {
  machine docker m2 off
  refused ssh_to "root@$LAB_m2" docker ps
  machine docker m2 on
  ssh_to "root@$LAB_m2" docker ps
}

power_cut() {
  machine kill m2
  refused ssh_to "root@$LAB_m2" true
  machine boot m2
  ssh_to "root@$LAB_m2" docker start redis
  eventually redis_answers "$LAB_m2"
}

up_is_idempotent() {
  local before
  before=$(cat "$LAB/lab.json")
  "$LAB_SCRIPTS/up.sh" 2
  [[ $(cat "$LAB/lab.json") == "$before" ]]
  redis_answers "$LAB_m1"
}

remember_namespaces() {
  local name pid
  NAMESPACES=()
  for name in $(machines); do
    pid=$(machine_pid "$name")
    NAMESPACES+=("$(readlink "/proc/$pid/ns/net")" "$(readlink "/proc/$pid/ns/mnt")" "$(readlink "/proc/$pid/ns/pid")")
  done
}

nothing_left() {
  local left namespace
  [[ ! -e $LAB ]]
  refused ip link show "$BRIDGE"
  left=$(ip -o link show | grep -F " $BRIDGE-" || true)
  left+=$(iptables -w -S | grep -F "nsd-lab $LAB_NAME" || true)
  left+=$(losetup --all --list --noheadings --output BACK-FILE | grep -F "$LAB/" || true)
  left+=$(find /sys/fs/cgroup -path "*/$CGROUP*" 2>/dev/null || true)
  left+=$(grep -lF "$LAB/" /proc/[0-9]*/mountinfo 2>/dev/null || true)
  left+=$(grep -lzx "LAB=$LAB" /proc/[0-9]*/environ 2>/dev/null || true)
  for namespace in "${NAMESPACES[@]}"; do
    left+=$({ readlink /proc/[0-9]*/ns/{net,mnt,pid} 2>/dev/null || true; } | grep -xF "$namespace" || true)
  done
  [[ -z $left ]] || {
    echo "left behind: $left"
    return 1
  }
}

killed_up_leaves_nothing() {
  local moment up
  for moment in 0.05 0.15 0.3 0.6 0.9; do
    "$LAB_SCRIPTS/up.sh" 2 &
    up=$!
    sleep "$moment"
    kill -9 "$up"
    wait "$up" || true
    "$LAB_SCRIPTS/down.sh"
    nothing_left
  done
}

main "$@"

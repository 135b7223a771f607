# shellcheck shell=bash
# shellcheck disable=SC2034 # some names are for the scripts that source this one
# The lab's names, places and mechanics; sourced by up.sh, down.sh, machine.sh and check.sh, run by nobody.
#
# Every process of a machine lives in one PID namespace (killing its first process ends them all, the kernel sees to it)
# and in one cgroup, which is the record that down.sh trusts. Mounts, network ends and loop devices belong to
# namespaces that die with it. What remains for us to remove: the bridge, two firewall rules, cgroups, one directory.

LAB_SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LAB_NAME=${NSD_LAB:-lab}
LAB_HOME=${NSD_LAB_DIR:-/var/tmp/nsd-lab}
LAB_CACHE=${NSD_LAB_CACHE:-/var/tmp/nsd-lab-cache}
LAB=$LAB_HOME/$LAB_NAME
DISK_SIZE=${NSD_LAB_DISK:-8G} # sparse: costs what is written
CGROUP=nsd-lab/$LAB_NAME
MAX_MACHINES=40

# ---- speaking ----------------------------------------------------------------------------------------------------

say() { printf '%s\n' "lab $LAB_NAME: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# No script of the lab ends silently.
failed() { say "failed: ${1%%$'\n'*} (${2##*/} line $3)"; }
set -E
trap 'failed "$BASH_COMMAND" "${BASH_SOURCE[0]}" "$LINENO"' ERR

# Elapsed seconds since $1 (a value of EPOCHREALTIME), with one decimal.
since() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", to - from }'; }

# ---- what must be there ------------------------------------------------------------------------------------------

# command:Debian package
LAB_NEEDS=(dockerd:docker.io docker:docker.io iptables:iptables ip:iproute2 nsenter:util-linux mkfs.ext4:e2fsprogs
  sshd:openssh-server ssh:openssh-client ssh-keygen:openssh-client git:git jq:jq curl:curl
  docker-registry:docker-registry redis-server:redis-server busybox:busybox-static)

lab_missing_packages() {
  local need
  for need in "${LAB_NEEDS[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${need%%:*}" >/dev/null || printf '%s\n' "${need#*:}"
  done | sort -u
}

lab_require() {
  [[ $LAB_NAME =~ ^[a-z0-9][a-z0-9-]{0,19}$ ]] || die "the lab's name may have 20 characters of a-z, 0-9 and -"
  [[ $EUID == 0 ]] || die "making machines needs root; run this as root"
  PATH=$PATH:/usr/sbin:/sbin
}

lab_require_packages() {
  local missing
  missing=$(lab_missing_packages | tr '\n' ' ')
  [[ -z $missing ]] || die "missing here: $missing— install with: apt-get install $missing"
}

# One script at a time works on a lab. The lock is held on the directory itself, so that nothing is left of it.
lab_lock() {
  mkdir -p "$LAB_HOME"
  exec 9<"$LAB_HOME"
  flock -w 120 9 || die "another lab script holds $LAB_HOME; try again when it is done"
}

# ---- addresses: 10.77.NUMBER.0/24 --------------------------------------------------------------------------------

# The number comes from the name, stepped forward over numbers that other labs hold; written before anything is made.
lab_reserve_number() {
  [[ -s $LAB/number ]] && return
  local number taken
  number=$(($(cksum <<<"$LAB_NAME" | cut -d' ' -f1) % 250 + 1))
  taken=" $({ cat "$LAB_HOME"/*/number 2>/dev/null || true; } | tr '\n' ' ') "
  while [[ $taken == *" $number "* ]] || ip link show "lab$number" &>/dev/null; do
    number=$((number % 250 + 1))
  done
  mkdir -p "$LAB"
  echo "$number" >"$LAB/number"
}

lab_load_number() {
  NUMBER=$(cat "$LAB/number" 2>/dev/null) || die "there is no such lab; tests/lab/up.sh makes it"
  BRIDGE=lab$NUMBER
  NET=10.77.$NUMBER
  GATEWAY=$NET.1
  REGISTRY=$NET.3:5000
}

# git is .2, registry is .3, m1 is .11 and so on.
address_of() {
  case $1 in
    git) echo "$NET.2" ;;
    registry) echo "$NET.3" ;;
    m*) echo "$NET.$((10 + ${1#m}))" ;;
  esac
}

# The same card after every power cut, so that no neighbour's table goes stale. 02 marks a locally made address.
hardware_address() { printf '02:6c:61:62:%02x:%02x' "$NUMBER" "${1##*.}"; }

role_of() { case $1 in m*) echo engine ;; *) echo "$1" ;; esac; }

# All machines that this lab has been asked to have, in a stable order.
machines() { (cd "$LAB/machines" 2>/dev/null && printf '%s\n' * | grep -v '^\*$' | sort -V) || true; }

require_machine() {
  [[ ${1:-} =~ ^(git|registry|m[0-9]+)$ && -d $LAB/machines/$1 ]] ||
    die "there is no machine '${1:-}'; this lab has: $(machines | tr '\n' ' ')"
}

# ---- cgroups: version 1 (one hierarchy each) or 2 (one in all) -----------------------------------------------------

cgroup_is_v2() { [[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]; }

# The hierarchy in which membership is recorded and machines are frozen.
cgroup_root() { if cgroup_is_v2; then echo /sys/fs/cgroup; else echo /sys/fs/cgroup/freezer; fi; }

# Daemons sit in the leaf `init`, containers below `docker`: version 2 wants no processes in inner nodes.
cgroup_join() {
  local leaf
  leaf=$(cgroup_root)/$CGROUP/$1/init
  mkdir -p "$leaf"
  echo "$BASHPID" >"$leaf/cgroup.procs"
}

cgroup_freeze() {
  local at
  at=$(cgroup_root)/$CGROUP/$1
  if cgroup_is_v2; then
    if [[ $2 == on ]]; then echo 1; else echo 0; fi >"$at/cgroup.freeze"
  else
    if [[ $2 == on ]]; then echo FROZEN; else echo THAWED; fi >"$at/freezer.state"
  fi
}

machine_is_frozen() {
  local at
  at=$(cgroup_root)/$CGROUP/$1
  if cgroup_is_v2; then
    grep -qx 1 "$at/cgroup.freeze" 2>/dev/null
  else
    grep -qE 'FROZEN|FREEZING' "$at/freezer.state" 2>/dev/null
  fi
}

cgroup_pids() {
  find "$(cgroup_root)/$1" -name cgroup.procs -exec cat {} + 2>/dev/null || true
}

# Removes a cgroup, its children and its twins in every hierarchy. Only ever below nsd-lab/.
cgroup_remove() {
  local path tries
  for tries in {1..50}; do
    find /sys/fs/cgroup -depth -type d -path "*/$1*" 2>/dev/null | while read -r path; do
      case $path in */"$1" | */"$1"/*) rmdir "$path" 2>/dev/null || true ;; esac
    done
    find /sys/fs/cgroup -type d -path "*/$1" 2>/dev/null | grep -q . || return 0
    sleep 0.1
  done
  die "cgroup $1 is still in use after $tries tries"
}

# ---- one machine -------------------------------------------------------------------------------------------------

# The start time (clock ticks since boot) tells a recorded process from a later one with the same id.
start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# The machine's first process as this host numbers it; fails when the machine is not running.
machine_pid() {
  local holder started first
  read -r holder started 2>/dev/null <"$LAB/machines/$1/holder" || return 1
  [[ $(start_time "$holder") == "$started" ]] || return 1
  first=$(cat "/proc/$holder/task/$holder/children" 2>/dev/null) || return 1
  first=${first%% *}
  # A child of a moment before the machine's own namespaces is not it: a cable would be plugged into this machine.
  [[ -n $first && $(readlink "/proc/$first/ns/net") != "$(readlink /proc/self/ns/net)" ]] && echo "$first"
}

machine_is_running() { machine_pid "$1" >/dev/null; }

machine_link() { echo "$BRIDGE-$1"; }

# Makes a machine's directory: disk, host key, what it shall be. Does nothing to one that exists.
machine_create() {
  local name=$1 dir=$LAB/machines/$1
  mkdir -p "$dir/root"
  [[ -s $dir/ssh_host_ed25519_key ]] || machine_new_host_key "$name"
  if [[ ! -s $dir/disk ]]; then
    truncate -s "$DISK_SIZE" "$dir/disk.new"
    mkfs.ext4 -q -m 0 -O ^has_journal "$dir/disk.new"
    mv "$dir/disk.new" "$dir/disk"
  fi
}

machine_new_host_key() {
  local dir=$LAB/machines/$1
  rm -f "$dir"/ssh_host_ed25519_key{,.pub}
  ssh-keygen -q -t ed25519 -N '' -C "$1.$LAB_NAME" -f "$dir/ssh_host_ed25519_key"
}

# Switches a machine on and returns when its services answer. Does nothing to one that runs.
machine_boot() {
  local name=$1 from=$EPOCHREALTIME
  machine_is_running "$name" && [[ -e $LAB/machines/$name/ready ]] && return
  machine_clear "$name"
  machine_start_processes "$name"
  machine_plug "$name"
  machine_await "$name"
  touch "$LAB/machines/$name/ready"
  say "$name ($(role_of "$name")) at $(address_of "$name") is up after $(since "$from")"
}

machine_start_processes() {
  local name=$1 dir=$LAB/machines/$1 tries self
  (
    exec 9<&-
    cgroup_join "$name"
    # Recorded by the process itself, before it is anything: a kill of up.sh leaves nothing unrecorded.
    self=$BASHPID
    echo "$self $(start_time "$self")" >"$dir/holder"
    exec setsid env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
      LAB="$LAB" LAB_SCRIPTS="$LAB_SCRIPTS" MACHINE="$name" ROLE="$(role_of "$name")" \
      REGISTRY="$REGISTRY" CGROUP_PARENT="/$CGROUP/$name/docker" \
      unshare --mount --uts --ipc --net --pid --fork --kill-child --propagation private \
      bash "$LAB_SCRIPTS/inside.sh" init
  ) </dev/null >>"$dir/console.log" 2>&1 &
  disown
  for tries in {1..600}; do
    machine_is_running "$name" && return
    sleep 0.05
  done
  die "$name did not start after $tries tries; see $dir/console.log"
}

# A cable from the machine's eth0 to the bridge. It vanishes with the machine's network namespace.
machine_plug() {
  local name=$1 pid link tries
  link=$(machine_link "$name")
  for tries in {1..5}; do
    pid=$(machine_pid "$name") || die "$name has no process; see $LAB/machines/$name/console.log"
    ip link add "$link" type veth \
      peer name eth0 address "$(hardware_address "$(address_of "$name")")" netns "$pid" && break
    ((tries < 5)) || die "$name gets no cable after $tries tries"
    sleep 0.2
  done
  nsenter --net="/proc/$pid/ns/net" bash -euc "
    ip link set lo up
    ip address add $(address_of "$name")/24 dev eth0
    ip link set eth0 up
    ip route add default via $GATEWAY"
  ip link set "$link" master "$BRIDGE" up
}

machine_await() {
  local name=$1 pid address deadline=$((SECONDS + 120))
  address=$(address_of "$name")
  while ((SECONDS < deadline)); do
    pid=$(machine_pid "$name") || die "$name ended while starting: $(tail -n 5 "$LAB/machines/$name/console.log")"
    machine_answers "$(role_of "$name")" "$pid" "$address" && return
    sleep 0.1
  done
  die "$name does not answer within 120 s; see $LAB/machines/$name/console.log"
}

machine_answers() {
  local role=$1 pid=$2 address=$3
  tcp_answers "$address" 22 || return 1
  case $role in
    engine) engine_answers "$pid" ;;
    registry) tcp_answers "$address" 5000 ;;
  esac
}

tcp_answers() { timeout 1 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; }

engine_answers() {
  [[ $(curl -s -m 2 --unix-socket "/proc/$1/root/run/docker.sock" http://engine/_ping 2>/dev/null) == OK ]]
}

# A power cut: the cable first, so that peers see silence and not a farewell; then every process at once. The holder
# reaps the first process and ends by itself.
machine_kill() {
  local name=$1 first tries
  ip link set "$(machine_link "$name")" down 2>/dev/null || true
  machine_is_frozen "$name" && cgroup_freeze "$name" off
  if first=$(machine_pid "$name"); then
    kill -9 "$first" 2>/dev/null || true
    for tries in {1..200}; do
      machine_is_running "$name" || break
      sleep 0.05
    done
  fi
  machine_clear "$name"
}

# Removes what a dead or half-started machine may have left: processes in its cgroup, its cable, its cgroups.
machine_clear() {
  local name=$1
  cgroup_kill "$CGROUP/$name"
  ip link delete "$(machine_link "$name")" 2>/dev/null || true
  rm -f "$LAB/machines/$name"/{holder,ready}
  cgroup_remove "$CGROUP/$name"
}

cgroup_kill() {
  local pids tries
  for tries in {1..100}; do
    mapfile -t pids < <(cgroup_pids "$1")
    ((${#pids[@]})) || return 0
    kill -9 "${pids[@]}" 2>/dev/null || true
    sleep 0.05
  done
  die "processes ${pids[*]} do not die after $tries tries"
}

# Runs a command inside a machine, as root, with a clean environment; $1 is the machine.
machine_run() {
  local name=$1 pid
  shift
  pid=$(machine_pid "$name") || die "$name is not running; start it with: tests/lab/machine.sh boot $name"
  ! machine_is_frozen "$name" || die "$name is frozen; thaw it first: tests/lab/machine.sh thaw $name"
  (
    exec 9<&-
    cgroup_join "$name"
    exec nsenter --target "$pid" --mount --uts --ipc --net --pid --root \
      env -i -C /root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
      TERM="${TERM:-dumb}" "$@"
  )
}

# ---- the network that joins them ---------------------------------------------------------------------------------

bridge_up() {
  if ! ip link show "$BRIDGE" &>/dev/null; then
    ip link add "$BRIDGE" address "$(hardware_address "$GATEWAY")" type bridge
    ip link set "$BRIDGE" alias "nsd-lab $LAB_NAME"
  fi
  ip address show dev "$BRIDGE" | grep -qF " $GATEWAY/24 " || ip address add "$GATEWAY/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  # A Docker engine outside sets the FORWARD policy to DROP, and bridged traffic passes that chain too.
  firewall_allow FORWARD -i "$BRIDGE" -o "$BRIDGE"
  firewall_allow INPUT -i "$BRIDGE"
}

firewall_allow() {
  local chain=$1
  shift
  iptables -w -C "$chain" "$@" -m comment --comment "nsd-lab $LAB_NAME" -j ACCEPT 2>/dev/null ||
    iptables -w -I "$chain" "$@" -m comment --comment "nsd-lab $LAB_NAME" -j ACCEPT
}

firewall_clear() {
  local rule
  iptables -w -S 2>/dev/null | { grep -F -- "--comment \"nsd-lab $LAB_NAME\"" || true; } | while read -r rule; do
    eval "iptables -w ${rule/#-A/-D}" # iptables prints its rules quoted for a shell
  done
}

bridge_down() {
  local link
  firewall_clear
  # By the alias too: the directory that knows the number may have been deleted by hand.
  for link in $(ip -json link show type bridge | jq -r --arg alias "nsd-lab $LAB_NAME" \
    '.[] | select(.ifalias == $alias) | .ifname') ${NUMBER:+"lab$NUMBER"}; do
    ip link delete "$link" 2>/dev/null || true
  done
}

# ---- telling tests what there is ---------------------------------------------------------------------------------

# known_hosts, lab.json and lab.env, written anew whenever something in them changes.
describe() {
  local name new=$LAB/new.$$ # two scripts may describe at once: each file appears whole
  mkdir -p "$new"
  for name in $(machines); do
    echo "$(address_of "$name") $(cut -d' ' -f1,2 "$LAB/machines/$name/ssh_host_ed25519_key.pub")"
  done >"$new/known_hosts"
  for name in $(machines); do
    jq -cn --arg name "$name" --arg role "$(role_of "$name")" --arg address "$(address_of "$name")" \
      --arg host_key "$(cut -d' ' -f1,2 "$LAB/machines/$name/ssh_host_ed25519_key.pub")" \
      --arg pid "$(machine_pid "$name" || true)" \
      '{name: $name, role: $role, address: $address, user: "root", host_key: $host_key, pid: ($pid | tonumber? // null)}
        + if $role == "engine" and $pid != "" then {docker: "unix:///proc/\($pid)/root/run/docker.sock"} else {} end'
  done | jq -s --arg name "$LAB_NAME" --arg subnet "$NET.0/24" --arg gateway "$GATEWAY" --arg dir "$LAB" \
    --arg scripts "$LAB_SCRIPTS" --arg registry "$REGISTRY" --arg git "$(address_of git)" '{
      name: $name, subnet: $subnet, gateway: $gateway, dir: $dir, scripts: $scripts,
      identity: "\($dir)/id_ed25519", known_hosts: "\($dir)/known_hosts",
      registry: {address: $registry, images: ["\($registry)/busybox:1", "\($registry)/redis:7"]},
      git: {address: $git, url: "ssh://git@\($git)/srv/git", repositories: ["worker"]},
      machines: map(select(.role == "engine")), services: map(select(.role != "engine"))}' >"$new/lab.json"
  jq -r '"NSD_LAB=\(.name)", "NSD_LAB_JSON=\(.dir)/lab.json", "LAB_IDENTITY=\(.identity)",
    "LAB_KNOWN_HOSTS=\(.known_hosts)", "LAB_REGISTRY=\(.registry.address)", "LAB_GIT=\(.git.url)",
    "LAB_GATEWAY=\(.gateway)", "LAB_MACHINES=\"\([.machines[].name] | join(" "))\"",
    (.machines[] | "LAB_\(.name)=\(.address)")' "$new/lab.json" >"$new/lab.env"
  mv "$new"/* "$LAB"
  rmdir "$new"
}

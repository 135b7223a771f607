#!/usr/bin/env bash
# What runs inside a machine. `init` is its first process: builds the machine's own root directory, enters it and
# starts the services of its role. `start ssh|docker|registry` and `stop docker` are called by machine.sh later.
set -euo pipefail

NEW_ROOT=${LAB:-}/machines/${MACHINE:-}/root

# Everything but the kernel is the machine's own: one disk holds what it writes, over the host's /usr and /etc.
build_root() {
  mount -o loop "$LAB/machines/$MACHINE/disk" "$NEW_ROOT"
  cd "$NEW_ROOT"
  mkdir -p .lab proc sys dev run tmp usr etc var/{log,tmp,cache,lib/{dpkg,apt}} root/.ssh home srv opt certs
  chmod 1777 tmp var/tmp
  chmod 700 root root/.ssh
  ln -sfn /run var/run
  local name
  for name in bin sbin lib lib32 lib64 libx32; do
    if [[ -L /$name ]]; then cp -Pf "/$name" .; fi
  done
  local over
  for over in usr etc var/lib/dpkg var/lib/apt; do
    mkdir -p ".lab/$over.upper" ".lab/$over.work"
    mount -t overlay overlay -o "lowerdir=/$over,upperdir=.lab/$over.upper,workdir=.lab/$over.work" "$over"
  done
  mount -t proc proc proc
  mount -t sysfs sysfs sys
  mount --rbind /sys/fs/cgroup sys/fs/cgroup # a fresh sysfs has none, and dockerd needs them
  mount --rbind /dev dev
  mount -t tmpfs -o mode=755 tmpfs run
  mkdir -p run/sshd
}

# Names, keys and accounts of this machine; what the host keeps for itself is hidden.
personalise() {
  local machines=$LAB/machines/$MACHINE
  hostname "$MACHINE"
  echo "$MACHINE" >etc/hostname
  cp "$LAB/hosts" etc/hosts
  rm -rf etc/docker etc/nsd etc/ssh/ssh_host_*
  install -m 600 "$machines/ssh_host_ed25519_key" etc/ssh/
  install -m 644 "$machines/ssh_host_ed25519_key.pub" etc/ssh/
  install -m 600 "$LAB/id_ed25519.pub" root/.ssh/authorized_keys
  sed -i 's/^root:[^:]*:/root:*:/' etc/shadow # no password, yet not locked: sshd refuses keys of locked accounts
  cp "$LAB_SCRIPTS/inside.sh" .lab/inside.sh
  printf '%s\n' "MACHINE=$MACHINE" "ROLE=$ROLE" "REGISTRY=$REGISTRY" "CGROUP_PARENT=$CGROUP_PARENT" >.lab/machine
  cat >etc/ssh/sshd_config <<'SSHD'
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
SSHD
  if [[ $ROLE == git ]]; then add_git_user; fi
}

add_git_user() {
  grep -q '^git:' etc/passwd || echo 'git:x:900:900:git:/home/git:/usr/bin/git-shell' >>etc/passwd
  grep -q '^git:' etc/group || echo 'git:x:900:' >>etc/group
  grep -q '^git:' etc/shadow || echo 'git:*:20000:0:99999:7:::' >>etc/shadow
  install -d -m 700 -o 900 -g 900 home/git home/git/.ssh
  install -m 600 -o 900 -g 900 "$LAB/id_ed25519.pub" home/git/.ssh/authorized_keys
  install -d -m 755 -o 900 -g 900 srv/git
  printf '[safe]\n\tdirectory = *\n' >root/.gitconfig # root may read what git owns
}

enter_root() {
  mkdir -p .lab/host
  pivot_root . .lab/host
  cd /
  exec chroot . /bin/bash /.lab/inside.sh serve
}

serve() {
  umount -l /.lab/host
  rmdir /.lab/host
  start ssh
  case $ROLE in
    engine) start docker ;;
    registry) start registry ;;
  esac
  # The first process of a machine only adopts and reaps; bash reaps whatever ends.
  while :; do
    sleep infinity &
    wait $! || true
  done
}

start() {
  case $1 in
    ssh) /usr/sbin/sshd -D -e </dev/null & ;;
    docker)
      dockerd --host unix:///run/docker.sock --data-root /var/lib/docker --exec-root /run/docker \
        --pidfile /run/docker.pid --cgroup-parent "$CGROUP_PARENT" --exec-opt native.cgroupdriver=cgroupfs \
        --insecure-registry "$REGISTRY" --log-level warn </dev/null &
      ;;
    registry)
      mkdir -p /var/lib/registry
      cat >/etc/registry.yml <<'YML'
version: 0.1
log: { level: warn, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: /var/lib/registry } }
http: { addr: ":5000", secret: lab }
YML
      docker-registry serve /etc/registry.yml </dev/null &
      ;;
  esac
  echo $! >"/run/lab-$1.pid"
}

# Politely; dockerd takes its containers along unless it restores live ones.
stop() {
  local pid tries
  pid=$(cat "/run/lab-$1.pid") || return 0
  kill "$pid" 2>/dev/null || return 0
  for tries in {1..200}; do
    [[ -d /proc/$pid ]] || return 0
    sleep 0.1
  done
  echo "$1 (process $pid) does not stop after $tries tries" >&2
  return 1
}

case ${1:-} in
  init)
    build_root
    personalise
    enter_root
    ;;
  serve | start | stop)
    # shellcheck source=/dev/null
    source /.lab/machine
    "$@"
    ;;
  *)
    echo "inside.sh runs inside machines; use tests/lab/machine.sh" >&2
    exit 64
    ;;
esac

#!/usr/bin/env bash
# A deploy that changes nothing: nsd beside Ansible, in turns, on four machines of the lab.
#
#   tests/lab/up.sh 4 && tests/bench/deploy.sh [LAB_JSON [NSD [ROUNDS]]]
#
# LAB_JSON is the lab's lab.json ($NSD_LAB_JSON, else the lab named `lab`), NSD the program with nsd-broker and nsd-balancer
# beside it (built for release when left out), ROUNDS 5. Both put the article's system on the machines first: Redis, a
# balancer, two brokers. Ansible then looks at the same containers, files and ports that nsd looks at, with everything that makes it fast:
# no fact gathering, pipelining, one SSH connection a machine kept open, all machines at once.
# Results also go to target/bench/deploy.md and deploy.json. The machines are left as they were found, also on Ctrl-C.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

GOAL=0.1 # highest ratio to Ansible
MACHINES=4

main() {
  need ansible-playbook ansible-core
  need jq jq
  need ssh openssh-client
  need openssl openssl
  LAB=${1:-${NSD_LAB_JSON:-/var/tmp/nsd-lab/lab/lab.json}}
  NSD=${2:-}
  ROUNDS=${3:-5}
  [[ -s $LAB ]] || stop "no lab is described in $LAB: run tests/lab/up.sh $MACHINES first"
  (($(lab '.machines | length') >= MACHINES)) || stop "the lab has too few machines: run tests/lab/up.sh $MACHINES"
  [[ -n $NSD ]] || build
  NSD=$(realpath "$NSD")
  WORK=$(mktemp -d)
  trap clean EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  prepare_nsd
  prepare_ansible
  say "first runs, which put everything there"
  run_nsd
  run_ansible
  run_ansible # the second one must change nothing
  is_unchanged || stop "Ansible still changes something in its second run: $(tail -n 8 "$WORK/ansible.log")"
  measure
  publish
}

need() {
  command -v "$1" >/dev/null || stop "$1 is not installed: apt-get install $2"
}

stop() {
  echo "$0: $*" >&2
  exit 1
}

say() {
  echo "$*" >&2
}

# A value of lab.json.
lab() {
  jq -r "$1" "$LAB"
}

# The address of machine N.
address() {
  lab ".machines[$(($1 - 1))].address"
}

# A shell line on machine N.
on() {
  ssh -n -i "$WORK/site/lab-key" -o UserKnownHostsFile="$(lab .known_hosts)" -o StrictHostKeyChecking=yes \
    -o LogLevel=ERROR -o ControlPath=none "root@$(address "$1")" "$2"
}

build() {
  cargo build --release --quiet -p nsd -p nsd-broker -p nsd-balancer
  NSD=${CARGO_TARGET_DIR:-target}/$(rustc -vV | sed -n 's/^host: //p')/release/nsd
}

clean() {
  local status=$?
  trap '' INT TERM HUP
  if [[ -d $WORK/site ]]; then
    [[ ! -s $WORK/site/system.toml ]] || nsd sys stop -y >/dev/null 2>&1 || true
    local machine
    for ((machine = 1; machine <= MACHINES; machine++)); do
      on "$machine" 'rm -rf /certs/bench.pem /srv/bench' >/dev/null 2>&1 || true
      ssh -O exit -o ControlPath="$WORK/%h" "root@$(address "$machine")" >/dev/null 2>&1 || true
    done
  fi
  rm -rf "$WORK"
  exit "$status"
}

# nsd, in a home of its own.
nsd() {
  (cd "$WORK/site" && env -i PATH="$PATH" HOME="$WORK/home" NSD_BUNDLED_DIR="$(dirname "$NSD")" "$NSD" "$@")
}

# ---- both sides put the same system there ----------------------------------------------------------------------------

# Limits of open files are left out: this machine may not allow its containers more than it has itself.
prepare_nsd() {
  local words
  mkdir -p "$WORK/site" "$WORK/home"
  install -m 600 "$(lab .identity)" "$WORK/site/lab-key"
  sed -e "s|178.62.31.9|$(address 1)|" -e "s|178.62.108.47|$(address 2)|" -e "s|178.62.122.204|$(address 3)|" \
    -e "s|178.62.104.172|$(address 4)|" -e "s|\"redis:7\"|\"$(lab .registry.address)/redis:7\"|" \
    -e 's|lelylan-key|lab-key|' -e '/^ulimits = /d' systems/lelylan-mqtt/system.toml >"$WORK/site/system.toml"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=bench -keyout "$WORK/key" \
    -out "$WORK/crt" 2>/dev/null
  cat "$WORK/crt" "$WORK/key" >"$WORK/bench.pem"
  on 2 "mkdir -p /certs && cat > /certs/bench.pem <<'PEM'
$(cat "$WORK/bench.pem")
PEM
chmod 644 /certs/bench.pem"
  for words in "login --name Bench --email bench@example.org" "mach trust -y" "sys comp direct" "cont buildall"; do
    # shellcheck disable=SC2086 # words of one command
    nsd $words >"$WORK/nsd.log" 2>&1 || stop "nsd $words failed: $(tail -n 5 "$WORK/nsd.log")"
  done
}

# The same machines as an inventory, and what a playbook for this system asks of each of them.
prepare_ansible() {
  local machine role
  cat >"$WORK/ansible.cfg" <<CONFIG
[defaults]
inventory = $WORK/hosts
gathering = explicit
forks = 20
host_key_checking = true
interpreter_python = /usr/bin/python3
retry_files_enabled = false
deprecation_warnings = false
[ssh_connection]
pipelining = true
ssh_args = -o ControlMaster=auto -o ControlPersist=600s -o ControlPath=$WORK/%h -o UserKnownHostsFile=$(lab .known_hosts)
CONFIG
  for ((machine = 1; machine <= MACHINES; machine++)); do
    role=$(sed -n "${machine}p" <<<$'redis\nbalancer\nbroker\nbroker')
    echo "m$machine ansible_host=$(address "$machine") ansible_user=root ansible_ssh_private_key_file=$WORK/site/lab-key role=$role"
  done >"$WORK/hosts"
  echo 'role = {{ role }}, machine = {{ inventory_hostname }}' >"$WORK/settings.j2"
  cat >"$WORK/site.yml" <<'PLAYBOOK'
- hosts: all
  gather_facts: false
  tasks:
    - name: folder of the process
      ansible.builtin.file: { path: /srv/bench, state: directory, mode: "0755" }
    - name: configuration file
      ansible.builtin.template: { src: settings.j2, dest: /srv/bench/settings, mode: "0644" }
    - name: containers that run
      ansible.builtin.command: docker ps --no-trunc --filter label=nsd.system --format "{{ '{{' }}.Names{{ '}}' }}"
      register: running
      changed_when: false
    - name: images that are there
      ansible.builtin.command: docker image ls --format "{{ '{{' }}.ID{{ '}}' }}"
      changed_when: false
    - name: specification of the containers
      ansible.builtin.command: docker inspect {{ running.stdout_lines | join(' ') }}
      changed_when: false
    - name: the process runs
      ansible.builtin.assert: { that: running.stdout_lines | length >= 1, quiet: true }
    - name: the process answers
      ansible.builtin.wait_for: { port: "{{ 6379 if role == 'redis' else 1883 }}", timeout: 10 }
      when: role != 'broker'
PLAYBOOK
}

# ---- one run of each -------------------------------------------------------------------------------------------------

run_nsd() {
  nsd rev dep head -y >"$WORK/nsd.log" 2>&1 || stop "nsd rev deploy failed: $(tail -n 5 "$WORK/nsd.log")"
}

run_ansible() {
  (cd "$WORK" && env ANSIBLE_CONFIG="$WORK/ansible.cfg" HOME="$WORK/home" LC_ALL=C.UTF-8 \
    ansible-playbook site.yml) >"$WORK/ansible.log" 2>&1 || stop "ansible-playbook failed: $(tail -n 12 "$WORK/ansible.log")"
}

is_unchanged() {
  ! grep -Eq 'changed=[1-9]' "$WORK/ansible.log"
}

# seconds COMMAND: how long it took.
seconds() {
  local from=$EPOCHREALTIME
  "$1"
  jq -n --arg from "$from" --arg to "$EPOCHREALTIME" '($to | tonumber) - ($from | tonumber)'
}

measure() {
  local round
  LOAD=$(cut -d' ' -f1 /proc/loadavg)
  : >"$WORK/rounds"
  for ((round = 1; round <= ROUNDS; round++)); do
    echo "{\"ansible\": $(seconds run_ansible), \"nsd\": $(seconds run_nsd)}" >>"$WORK/rounds"
    is_unchanged || stop "round $round: Ansible changed something"
    say "$round/$ROUNDS  $(tail -n 1 "$WORK/rounds")"
  done
}

publish() {
  local out=target/bench
  mkdir -p "$out"
  jq -s --argjson goal "$GOAL" --arg load "$LOAD" --arg ansible "$(ansible-playbook --version | sed -n 1p)" '
    def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
    {table: "deploy", peer: $ansible, load_before: $load, rounds: ., goal: $goal,
     nsd: (map(.nsd) | median), ansible: (map(.ansible) | median), ratio: (map(.nsd / .ansible) | median)}
    | . + {verdict: (if .ratio <= .goal then "met" else "missed" end)}' "$WORK/rounds" >"$out/deploy.json"
  jq -r '"## nsd beside Ansible\n\n| work | figure | ours | Ansible | ratio | goal | |\n| --- | --- | --- | --- | --- | --- | --- |",
    "| deploy that changes nothing, 4 machines | seconds | \(.nsd * 1000 | round / 1000) | \(.ansible * 1000 | round / 1000) | \(.ratio * 1000 | round / 1000) | ≤ \(.goal) | \(.verdict) |",
    "\n\(.rounds | length) rounds in turns, \(.peer), load average \(.load_before) before."' "$out/deploy.json" | tee "$out/deploy.md"
}

main "$@"

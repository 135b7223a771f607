#!/usr/bin/env bash
# Everything that is tested, from a fresh Debian machine with Rust: installs what is missing, makes its own lab of machines,
# stops at the first failure, and leaves nothing running, whatever ends it. Ends with one line that counts all tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export NSD_LAB=run-$$ NSD_LAB_CHECK=check-$$
# shellcheck source=lab/lab.sh
source tests/lab/lab.sh
trap - ERR

STARTED=$EPOCHREALTIME
RUN_CGROUP=nsd-run/$$ # every step runs in it, so that what a step leaves behind is seen and ended
RESULTS=$(mktemp)
CHILD=

main() {
  prepare
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  exec 3>&1 4>&2 > >(exec tee -i -a "$RESULTS" 3>&- 4>&-) 2>&1
  TEE=$!

  step 'formatting' cargo fmt --all --check
  step 'lints' cargo clippy --workspace --all-targets --features nsd/lab --quiet -- -D warnings
  step 'scripts' shellcheck tests/*.sh tests/*/*.sh systems/*/*.sh .ci/run
  step 'build' cargo build --workspace --features nsd/lab
  step 'the lab checks itself' tests/lab/check.sh
  step 'machines for the whole-stack tests' tests/lab/up.sh 6
  export NSD_LAB_JSON=$LAB/lab.json
  # Nearly all of a test is waiting.
  step 'tests: units, command line, documentation, whole stack' env RUST_TEST_THREADS=4 \
    cargo test --workspace --features nsd/lab --no-fail-fast
  step 'machines are taken down' tests/lab/down.sh
  step 'conformance again, with sessions on disk' env NSD_CONFORMANCE=ours NSD_CONFORMANCE_STORE=disk RUST_TEST_THREADS=8 \
    cargo test --workspace --features nsd/lab --test conformance
  step 'fuzzing, each target for a minute' tests/fuzz.sh "${NSD_FUZZ_SECONDS:-60}"
  step 'quickstart, up and down' tests/quickstart.sh
  step 'benchmarks, a short look' tests/bench/run.sh --smoke
}

prepare() {
  if ((EUID)); then
    stop 'The tests make network namespaces and start Docker engines in them: run this as root.'
  fi
  export PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
  # What a workspace build needs, what the lab needs, and the peers that tests and benchmarks stand beside.
  tests/install.sh cc:build-essential make:build-essential prove:perl pkg-config:pkg-config shellcheck:shellcheck dnsmasq:dnsmasq-base \
    "${LAB_NEEDS[@]}" mosquitto:mosquitto mosquitto_pub:mosquitto-clients haproxy:haproxy openssl:openssl \
    chromium:chromium \
    /usr/lib/python3/dist-packages/prometheus_client/parser.py:python3-prometheus-client
  local tool
  for tool in cargo rustfmt cargo-clippy; do
    command -v "$tool" >/dev/null || stop "$tool is not here: install Rust from https://rustup.rs (with rustfmt and clippy)."
  done
  # A run that was killed with -9 could not clean up after itself.
  local lab
  for lab in "$LAB_HOME"/{run,check}-*; do
    [[ ! -d $lab || -d /proc/${lab##*-} ]] || NSD_LAB=${lab##*/} tests/lab/down.sh
  done
}

stop() {
  echo "$*" >&2
  exit 1
}

# step TITLE COMMAND…: runs it in the run's cgroup; it fails when the command fails or leaves a process behind.
step() {
  local title=$1 from=$EPOCHREALTIME status=0
  STEP=$title
  shift
  printf '\n==> %s\n' "$title"
  set -m # an own process group with usual signals, so that Ctrl-C and TERM can end all of it
  (
    set +m
    run_join
    exec "$@" 3>&- 4>&-
  ) </dev/null &
  CHILD=$!
  set +m
  wait "$CHILD" || status=$?
  CHILD=
  ((status == 0)) || stop "FAILED: $title ($* ended with $status after $(since "$from"))"
  leftover_is_none || stop "FAILED: $title left processes running"
  printf '    %s: ok, %s\n' "$title" "$(since "$from")"
}

run_join() {
  local leaf
  leaf=$(cgroup_root)/$RUN_CGROUP
  mkdir -p "$leaf"
  echo "$BASHPID" >"$leaf/cgroup.procs"
}

# A moment for what is just ending; then the rest is named.
leftover_is_none() {
  local pids tries
  for tries in {1..30}; do
    mapfile -t pids < <(cgroup_pids "$RUN_CGROUP")
    ((${#pids[@]})) || return 0
    sleep 0.1
  done
  echo "still running after $tries tries:" >&2
  local pid
  for pid in "${pids[@]}"; do
    echo "$pid $({ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null)" >&2
  done
  return 1
}

finish() {
  local status=$?
  trap '' INT TERM HUP
  [[ -z $CHILD ]] || kill -TERM -- "-$CHILD" 2>/dev/null || true
  sleep 0.2
  cgroup_kill "$RUN_CGROUP"
  cgroup_remove "$RUN_CGROUP"
  rmdir "$(cgroup_root)/nsd-run" 2>/dev/null || true
  local lab
  for lab in "$NSD_LAB" "$NSD_LAB_CHECK"; do
    [[ ! -e $LAB_HOME/$lab ]] || NSD_LAB=$lab tests/lab/down.sh
  done
  ((status == 0)) || printf '\nStopped in: %s\n' "${STEP:-preparation}" >&2
  exec >&3 2>&4 3>&- 4>&-
  wait "$TEE" || true # it has read everything then
  total "$status"
  rm -f "$RESULTS"
  exit "$status"
}

# The sum of all `test result:` lines, in their own form.
total() {
  local word=ok
  (($1 == 0)) || word=FAILED
  awk -v word="$word" -v took="$(since "$STARTED")" '
    /^test result:/ { passed += $4; failed += $6; ignored += $8; filtered += $12 }
    END { printf "\ntest result: %s. %d passed; %d failed; %d ignored; 0 measured; %d filtered out; finished in %s\n",
      word, passed, failed, ignored, filtered, took }' "$RESULTS"
}

main "$@"

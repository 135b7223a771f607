#!/usr/bin/env bash
# tests/fuzz.sh [SECONDS [TARGET…]]: feeds each target of broker/fuzz for so long (60 s; by hand 3600 is worth it) what
# no one meant, guided by what code it reaches, from the corpus in git and from what earlier runs here have found. A
# finding stops it and is named. tests/fuzz.sh --keep TARGET… puts the shortest inputs that reach everything into git.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
FOUND=${CARGO_TARGET_DIR:-$PWD/target}/fuzz # what was found, logs, programs
cd broker

main() {
  local keep=0 seconds=60 target targets
  if [[ ${1:-} == --keep ]]; then keep=1; else seconds=${1:-60}; fi
  [[ $seconds =~ ^[1-9][0-9]*$ ]] || stop "how many seconds? Not $seconds"
  shift || true
  command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet
  cargo fmt --manifest-path fuzz/Cargo.toml --check
  targets=("$@")
  ((${#targets[@]})) || mapfile -t targets < <(cargo fuzz list)
  mkdir -p "$FOUND"
  # Sanitizers need a nightly compiler; coverage does not, and what they look for is not in code without `unsafe`.
  cargo fuzz build --sanitizer none --target-dir "$FOUND"
  for target in "${targets[@]}"; do
    mkdir -p "$FOUND/corpus/$target" "fuzz/corpus/$target"
    if ((keep)); then keep "$target"; fi
  done
  ((keep)) || fuzz_all "$seconds" "${targets[@]}"
}

# Two at a time: each keeps one processor busy.
fuzz_all() {
  local seconds=$1 target running=() pid failed=0
  shift
  for target in "$@"; do
    fuzz "$target" "$seconds" &
    running+=("$!")
    ((${#running[@]} == 2)) || continue
    for pid in "${running[@]}"; do wait "$pid" || failed=1; done
    running=()
  done
  for pid in "${running[@]}"; do wait "$pid" || failed=1; done
  ((failed == 0))
}

stop() {
  echo "$*" >&2
  exit 1
}

# run TARGET ARGUMENT…: its program; findings go to fuzz/artifacts/TARGET.
run() {
  local target=$1 host
  host=$(rustc -vV | sed -n 's/^host: //p')
  shift
  mkdir -p "fuzz/artifacts/$target"
  "$FOUND/$host/release/$target" -artifact_prefix="fuzz/artifacts/$target/" -max_len=4096 -timeout=10 -rss_limit_mb=1024 "$@"
}

fuzz() {
  local target=$1 seconds=$2 log=$FOUND/$1.log last
  if ! run "$target" -max_total_time="$seconds" "$FOUND/corpus/$target" "fuzz/corpus/$target" >"$log" 2>&1; then
    grep -aE 'panicked at|^assertion|^ *(left|right):|^Test unit written|ERROR:' -A1 "$log" >&2 || tail -n 20 "$log" >&2
    stop "FOUND something in $target. See $log; again with: cd broker && cargo fuzz run -s none --target-dir $FOUND $target $(
      sed -n 's/.*Test unit written to //p' "$log"
    )"
  fi
  last=$(sed -n 's/.*DONE *cov: \([0-9]*\).*corp: \([0-9]*\).*/\1 by \2 inputs/p' "$log")
  printf '%s: %s inputs in %s s, nothing found; coverage %s\n' "$target" "$(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$log")" \
    "$seconds" "$last"
}

keep() {
  local target=$1 fresh
  fresh=$(mktemp -d)
  run "$target" -set_cover_merge=1 -use_counters=0 "$fresh" "fuzz/corpus/$target" "$FOUND/corpus/$target" >"$FOUND/$target.log" 2>&1
  rm -rf "fuzz/corpus/$target"
  mv "$fresh" "fuzz/corpus/$target"
  chmod 755 "fuzz/corpus/$target"
  printf '%s: %s inputs, %s bytes\n' "$target" "$(find "fuzz/corpus/$target" -type f | wc -l)" \
    "$(cat "fuzz/corpus/$target"/* | wc -c)"
}

main "$@"

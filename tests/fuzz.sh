#!/usr/bin/env bash
# tests/fuzz.sh [SECONDS [TARGET…]]: feeds each target of broker/fuzz and balancer/fuzz for so long (60 s; by hand 3600 is
# worth it) what no one meant, guided by what code it reaches, from the corpus in git and from what earlier runs here have
# found. A finding stops it and is named. tests/fuzz.sh --keep TARGET… puts the shortest inputs that reach everything into git.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
FOUND=${CARGO_TARGET_DIR:-$PWD/target}/fuzz # what was found, logs, programs
HOMES=(broker balancer)
declare -A HOME_OF=() # of each target

main() {
  local keep=0 seconds=60 home target targets
  if [[ ${1:-} == --keep ]]; then keep=1; else seconds=${1:-60}; fi
  [[ $seconds =~ ^[1-9][0-9]*$ ]] || stop "how many seconds? Not $seconds"
  shift || true
  command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet
  mkdir -p "$FOUND"
  for home in "${HOMES[@]}"; do
    cargo fmt --manifest-path "$home/fuzz/Cargo.toml" --check
    while read -r target; do HOME_OF[$target]=$home; done < <(cd "$home" && cargo fuzz list)
  done
  targets=("$@")
  ((${#targets[@]})) || mapfile -t targets < <(printf '%s\n' "${!HOME_OF[@]}" | sort)
  for target in "${targets[@]}"; do
    [[ -n ${HOME_OF[$target]:-} ]] || stop "there is no target $target; there are: ${!HOME_OF[*]}"
  done
  for home in $(for target in "${targets[@]}"; do echo "${HOME_OF[$target]}"; done | sort -u); do
    # Sanitizers need a nightly compiler; coverage does not, and what they look for is not in code without `unsafe`.
    (cd "$home" && cargo fuzz build --sanitizer none --target-dir "$FOUND")
  done
  for target in "${targets[@]}"; do
    mkdir -p "$FOUND/corpus/$target" "$(corpus "$target")"
    if ((keep)); then keep "$target"; fi
  done
  ((keep)) || fuzz_all "$seconds" "${targets[@]}"
}

# What of TARGET is in git.
corpus() {
  echo "${HOME_OF[$1]}/fuzz/corpus/$1"
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

# run TARGET ARGUMENT…: its program; findings go to fuzz/artifacts/TARGET beside its corpus.
run() {
  local target=$1 host found
  host=$(rustc -vV | sed -n 's/^host: //p')
  found=${HOME_OF[$target]}/fuzz/artifacts/$target
  shift
  mkdir -p "$found"
  "$FOUND/$host/release/$target" -artifact_prefix="$found/" -max_len=4096 -timeout=10 -rss_limit_mb=1024 "$@"
}

fuzz() {
  local target=$1 seconds=$2 log=$FOUND/$1.log last
  if ! run "$target" -max_total_time="$seconds" "$FOUND/corpus/$target" "$(corpus "$target")" >"$log" 2>&1; then
    grep -aE 'panicked at|^assertion|^ *(left|right):|^Test unit written|ERROR:' -A1 "$log" >&2 || tail -n 20 "$log" >&2
    stop "FOUND something in $target. See $log; again with: cd ${HOME_OF[$target]} && cargo fuzz run -s none --target-dir $FOUND $target $(
      sed -n "s:.*Test unit written to ${HOME_OF[$target]}/::p" "$log"
    )"
  fi
  last=$(sed -n 's/.*DONE *cov: \([0-9]*\).*corp: \([0-9]*\).*/\1 by \2 inputs/p' "$log")
  printf '%s: %s inputs in %s s, nothing found; coverage %s\n' "$target" "$(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$log")" \
    "$seconds" "$last"
}

keep() {
  local target=$1 fresh kept
  kept=$(corpus "$target")
  fresh=$(mktemp -d)
  run "$target" -set_cover_merge=1 -use_counters=0 "$fresh" "$kept" "$FOUND/corpus/$target" >"$FOUND/$target.log" 2>&1
  rm -rf "$kept"
  mv "$fresh" "$kept"
  chmod 755 "$kept"
  printf '%s: %s inputs, %s bytes\n' "$target" "$(find "$kept" -type f | wc -l)" "$(cat "$kept"/* | wc -c)"
}

main "$@"

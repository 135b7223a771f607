#!/usr/bin/env bash
# Stops what up.sh started and removes every file and ref that it made: Redis' data, logs, certificate, revisions. The build in
# target/ and Debian's redis-server package stay.
set -euo pipefail
# shellcheck source=here.sh
source "$(dirname "${BASH_SOURCE[0]}")/here.sh"

main() {
  local state
  state=$(state_folder)
  if [[ -e $state || -e $QUICKSTART/.nsd ]]; then
    NSD=$(nsd_path)
    [[ -x $NSD ]] || stop "$NSD is not there to stop what runs: run ./systems/quickstart/up.sh first, or set NSD_PROFILE as it was."
    nsd sys stop --yes
  fi
  remove_revisions
  rm -rf "$state" "$QUICKSTART/.nsd"
  rmdir "$(dirname "$state")" 2>/dev/null || true # when no other system has state
  echo 'The quickstart is gone.'
}

# Revisions are refs of the git repository around this folder.
remove_revisions() {
  git -C "$QUICKSTART" rev-parse --git-dir >/dev/null 2>&1 || return 0
  git -C "$QUICKSTART" for-each-ref --format='delete %(refname)' 'refs/nsd/quickstart/**' |
    git -C "$QUICKSTART" update-ref --stdin
}

main "$@"

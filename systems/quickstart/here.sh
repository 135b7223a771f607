# shellcheck shell=bash
# What up.sh and down.sh share: where things are. Sourced.

QUICKSTART=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CHECKOUT=$(cd "$QUICKSTART/../.." && pwd)
PROFILE=${NSD_PROFILE:-release}
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin

stop() {
  printf '%s\n' "$*" >&2
  exit 1
}

# The built program's path; its folder holds nsd-broker and nsd-balancer too.
nsd_path() {
  local folder=$PROFILE triple
  [[ $PROFILE != dev ]] || folder=debug # cargo's own name for that profile's folder
  triple=$(rustc -vV | sed -n 's/^host: //p')
  echo "${CARGO_TARGET_DIR:-$CHECKOUT/target}/$triple/$folder/nsd"
}

nsd() { "$NSD" -C "$QUICKSTART" --topology local "$@"; }

# Where nsd keeps the processes of this system, by the id in system.toml.
state_folder() {
  local id
  id=$(sed -n 's/^id = "\([^"]*\)".*/\1/p' "$QUICKSTART/system.toml")
  echo "${XDG_STATE_HOME:-$HOME/.local/state}/nsd/${id:?system.toml has no id}"
}

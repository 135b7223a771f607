#!/usr/bin/env bash
# The README's first command and its opposite, in a network of their own (so that their ports are free) and with a home of
# their own: up, up again, a message through the balancer in plain and over TLS, down, and nothing is left.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
  if [[ ${1:-} != inside ]]; then
    exec unshare --net -- "$0" inside
  fi
  ip link set lo up
  WORK=$(mktemp -d)
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # Cargo keeps its own home: everything is fetched and, in this profile, built already.
  export CARGO_HOME=${CARGO_HOME:-$HOME/.cargo} RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} CARGO_NET_OFFLINE=true
  export HOME=$WORK/home NSD_PROFILE=${NSD_PROFILE:-dev}
  unset XDG_STATE_HOME XDG_CONFIG_HOME XDG_CACHE_HOME
  mkdir "$HOME"

  ./systems/quickstart/up.sh | tee "$WORK/up"
  grep -q 'NSD_MQTT_PASSWORD=' "$WORK/up"
  PASSWORD=$(sed -n 's/.*"password": *"\([^"]*\)".*/\1/p' systems/quickstart/.nsd/demo.json)

  message_passes plain -p 1883
  openssl s_client -connect 127.0.0.1:8883 </dev/null 2>/dev/null | openssl x509 >"$WORK/certificate.pem"
  message_passes tls -p 8883 --cafile "$WORK/certificate.pem"
  commands_as_printed
  stranger_is_refused

  ./systems/quickstart/up.sh | tee "$WORK/again"
  grep -q "$PASSWORD" "$WORK/again" || fail 'a second up.sh gave the device another password'
  message_passes again -p 1883

  ./systems/quickstart/down.sh
  nothing_left
  ./systems/quickstart/down.sh # nothing there: says so, fails not
  echo 'quickstart: up, messages, up again, down: ok'
}

fail() {
  echo "quickstart: $*" >&2
  exit 1
}

# message_passes TEXT OPTION…: what one Mosquitto client publishes, another receives.
message_passes() {
  local text=$1 subscriber
  shift
  timeout 20 mosquitto_sub -h 127.0.0.1 "$@" -u demo -P "$PASSWORD" -q 1 -t 'devices/demo/#' -C 1 >"$WORK/received" &
  subscriber=$!
  sleep 1
  mosquitto_pub -h 127.0.0.1 "$@" -u demo -P "$PASSWORD" -q 1 -t devices/demo/status -m "$text"
  wait "$subscriber" || fail "no message came through ($*)"
  [[ $(cat "$WORK/received") == "$text" ]] || fail "instead of '$text' came '$(cat "$WORK/received")'"
}

# The two commands that up.sh prints, word for word.
commands_as_printed() {
  local subscriber
  export NSD_MQTT_PASSWORD=$PASSWORD
  eval "exec timeout 20 $(grep -m1 ' mqtt sub ' "$WORK/up")" >"$WORK/received" &
  subscriber=$!
  sleep 1.5
  eval "$(grep -m1 ' mqtt pub ' "$WORK/up")"
  sleep 1
  kill "$subscriber"
  wait "$subscriber" || true
  grep -q on "$WORK/received" || fail "the printed commands do not work: $(cat "$WORK/received")"
  unset NSD_MQTT_PASSWORD
}

stranger_is_refused() {
  if timeout 10 mosquitto_pub -h 127.0.0.1 -u demo -P wrong -t devices/demo/status -m x 2>/dev/null; then
    fail 'a wrong password was accepted'
  fi
}

nothing_left() {
  local left
  left=$(ip -o addr show lo >/dev/null && ss -Hltn)
  [[ -z $left ]] || fail "still listening: $left"
  left=$(find "$HOME" -type f)
  [[ -z $left ]] || fail "files left: $left"
  [[ ! -e systems/quickstart/.nsd ]] || fail 'systems/quickstart/.nsd is left'
  left=$(git for-each-ref 'refs/nsd/quickstart/**')
  [[ -z $left ]] || fail "revisions left: $left"
}

finish() {
  [[ ! -e systems/quickstart/.nsd ]] || ./systems/quickstart/down.sh || true
  rm -rf "$WORK"
}

main "$@"

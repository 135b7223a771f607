#!/usr/bin/env bash
# A highly available MQTT cluster on this machine: Redis, two brokers and the balancer as supervised processes, on 127.0.0.1
# only. Needs Rust; says what it installs. Running it again changes nothing. down.sh takes all of it away.
set -euo pipefail
# shellcheck source=here.sh
source "$(dirname "${BASH_SOURCE[0]}")/here.sh"

DEVICE=demo

main() {
  command -v cargo >/dev/null || stop 'cargo is not here: install Rust from https://rustup.rs and run this again.'
  "$CHECKOUT/tests/install.sh" cc:build-essential make:build-essential prove:perl git:git redis-server:redis-server
  echo "Building nsd, nsd-broker and nsd-balancer (the first time takes some minutes) …"
  (cd "$CHECKOUT" && cargo build --profile "$PROFILE" --bin nsd --bin nsd-broker --bin nsd-balancer)
  NSD=$(nsd_path)
  nsd up local --yes
  add_device
  echo
  nsd status
  tell
}

# A device's secret is shown once, when it is added. It is kept beside the system, readable only by you, for the commands below.
add_device() {
  local kept=$QUICKSTART/.nsd/$DEVICE.json
  if [[ -s $kept ]] && nsd device list --json | grep -qF "\"$DEVICE\""; then return; fi
  rm -f "$kept"
  (umask 077 && nsd device add "$DEVICE" --replace --json >"$kept.new")
  mv "$kept.new" "$kept"
}

tell() {
  local password program
  password=$(sed -n 's/.*"password": *"\([^"]*\)".*/\1/p' "$QUICKSTART/.nsd/$DEVICE.json")
  program=$NSD
  if [[ $PWD == "$CHECKOUT" ]]; then
    program=${NSD/#"$CHECKOUT"/.}
    QUICKSTART=systems/quickstart
  fi
  cat <<TEXT

MQTT on 127.0.0.1:1883, MQTT over TLS on 127.0.0.1:8883. A device may use the topics whose second level is its name:

    user      $DEVICE
    password  $password

To try, in this terminal and in another one:

    export NSD_MQTT_PASSWORD=$password
    $program mqtt sub -u $DEVICE -t 'devices/$DEVICE/#'
    $program mqtt pub -u $DEVICE -t devices/$DEVICE/status -m on
    $program -C $QUICKSTART mqtt pub --tls -u $DEVICE -t devices/$DEVICE/status -m on

    $program -C $QUICKSTART status
    $program -C $QUICKSTART logs mqtt

./systems/quickstart/down.sh takes it all away.
TEXT
}

main "$@"

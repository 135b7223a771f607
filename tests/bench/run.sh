#!/bin/sh
# Our servers beside their peers: builds them for release, then measures in turns and prints the ratio tables.
#
#   tests/bench/run.sh                    all tables, three rounds, about 50 minutes
#   tests/bench/run.sh --smoke            one short round of a few rows
#   tests/bench/run.sh cluster            two nodes around a Redis beside one node
#   tests/bench/run.sh matrix             what HAProxy and our balancer do in each of many situations
#   tests/bench/run.sh broker --only fan-in-0 --rounds 5
#   tests/bench/run.sh --help             everything else
#
# Results also go to target/bench as Markdown and JSON, the matrix's configurations to target/bench/matrix. Everything that is started ends with it, also on Ctrl-C.
set -eu

cd "$(dirname "$0")/../.."

need() { # program, package
    command -v "$1" >/dev/null || { echo "$0: $1 is not installed: apt-get install $2" >&2; exit 1; }
}
PATH=$PATH:/usr/sbin:/sbin
need cargo cargo
need taskset util-linux
need setpriv util-linux

packages="-p nsd-load"
case " $* " in
    *" --peers-only "* | *" --help "* | *" -h "*) ;;
    *" broker "* | *" cluster "*) packages="$packages -p nsd-broker" ;;
    *" balancer "* | *" matrix "*) packages="$packages -p nsd-balancer" ;;
    *) packages="$packages -p nsd-broker -p nsd-balancer" ;;
esac

# shellcheck disable=SC2086 # several words on purpose
cargo build --release --quiet $packages

target=${CARGO_TARGET_DIR:-target}
host=$(rustc -vV | sed -n 's/^host: //p')
exec "$target/$host/release/nsd-bench" "$@"

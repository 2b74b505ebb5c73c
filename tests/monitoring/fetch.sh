#!/usr/bin/env bash
# A Prometheus to test with, in .build/prometheus: `prometheus` and `promtool` out of Debian's package, not installed and
# without root. Elsewhere those that are on the PATH; where there are none the tests say what to install.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/.build/prometheus
rm -rf "$out"
mkdir -p "$out"
cd "$out"

have() { command -v "$1" >/dev/null; }
if have prometheus && have promtool; then
  ln -s "$(command -v prometheus)" "$(command -v promtool)" .
elif have apt-get && have dpkg; then
  echo '== Fetching Debian'"'"'s prometheus package to .build/prometheus (20 MB, once, not installed)'
  quiet=(-qq -o Debug::NoLocking=true -o APT::Sandbox::User="$(id -un)")
  if ! apt-get "${quiet[@]}" download prometheus 2>/dev/null; then
    # This machine's lists are missing or old: lists of our own, which need no root.
    mkdir -p apt/lists/partial apt/archives/partial
    quiet+=(-o Dir::State::lists="$out/apt/lists" -o Dir::Cache="$out/apt" -o Acquire::Languages=none -o Acquire::Retries=3)
    apt-get "${quiet[@]}" update
    apt-get "${quiet[@]}" download prometheus
  fi
  dpkg -x prometheus_*.deb root
  mv root/usr/bin/prometheus root/usr/bin/promtool .
  rm -rf root apt prometheus_*.deb
else
  echo '== No Prometheus to test with: install prometheus and promtool (https://prometheus.io/download), so that both'
  echo '   are on the PATH. Until then tests/monitoring cannot check rules and dashboards against it.'
  exit 0
fi
./prometheus --version 2>&1 | head -n 1
./promtool --version >/dev/null 2>&1
touch ready

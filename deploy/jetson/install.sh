#!/usr/bin/env bash
# A Jetson with NVIDIA's JetPack as a client of a fleet. README.md, or --help.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../device/client.sh
source "$(dirname "${BASH_SOURCE[0]}")/../device/client.sh"

device_check() {
  step "Device"
  case $(uname -m) in aarch64 | x86_64) ;; *) refuse "this system is not 64-bit ($(uname -m))" ;; esac
  if [ -r /etc/nv_tegra_release ]; then
    head -n 1 /etc/nv_tegra_release
  else
    say "this is no Jetson ($(uname -m)); going on all the same"
  fi
}

# JetPack 6 has Python 3.10, and 3.11 beside it in Ubuntu's own packages; JetPack 7 has 3.12.
find_python() {
  step "Python"
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if usable "$name"; then break; fi
  done
  if ! usable "$name"; then
    run apt-get install --yes --no-install-recommends python3.11 python3.11-venv
    name=python3.11
  fi
  PYTHON=$(command -v "$name" || true)
  if [ -z "$PYTHON" ]; then
    [ -n "$DRY" ] || refuse "no Python 3.11 or newer is to be had: apt-get update, or see README.md"
    PYTHON=/usr/bin/$name
  fi
  say "$PYTHON"
}

usable() { "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# NVIDIA's own, which uses the GPU: as given, or the one that this Python has already.
torch_wanted() {
  if [ -n "$TORCH" ]; then
    printf '%s' "$TORCH"
  elif ! "$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null; then
    refuse "--tier high needs NVIDIA's torch for $("$PYTHON" --version): give its wheel with --torch (README.md), or take --tier low"
  fi
}

main "$@"

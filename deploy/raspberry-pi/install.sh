#!/usr/bin/env bash
# A Raspberry Pi with a 64-bit Raspberry Pi OS (or Debian, or Ubuntu) as a client of a fleet. README.md, or --help.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../device/client.sh
source "$(dirname "${BASH_SOURCE[0]}")/../device/client.sh"

device_check() {
  step "Device"
  case $(uname -m) in
    aarch64 | x86_64) ;;
    *) refuse "this system is 32-bit ($(uname -m)), for which there is no onnxruntime: install the 64-bit Raspberry Pi OS" ;;
  esac
  local model=another
  if [ -r /proc/device-tree/model ]; then model=$(tr -d '\0' </proc/device-tree/model); fi
  case $model in
    "Raspberry Pi"*) say "$model" ;;
    *) say "this is no Raspberry Pi ($(uname -m)); going on all the same" ;;
  esac
}

find_python() {
  step "Python"
  PYTHON=$(command -v python3) || refuse "python3 is missing: apt install python3"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    refuse "$("$PYTHON" --version) is too old: Raspberry Pi OS of 2023 (Debian 12) or newer has 3.11"
  if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    run apt-get install --yes --no-install-recommends python3-venv
  fi
  "$PYTHON" --version
}

# Later ones bring CUDA packages on Arm, too.
torch_wanted() { printf '%s' "${TORCH:-torch<2.11}"; }

main "$@"

#!/usr/bin/env bash
# systemd-analyze to test the units with, in .build/systemd: the system's own, or else out of Debian's packages, not
# installed and without root. Where there is neither, the tests say so.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/.build/systemd
rm -rf "$out"
mkdir -p "$out"
cd "$out"

if command -v systemd-analyze >/dev/null && [ -z "${FETCH:-}" ]; then
  ln -s "$(command -v systemd-analyze)" .
elif command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
  echo '== Fetching Debian'"'"'s systemd packages to .build/systemd (6 MB, once, not installed)'
  packages=(systemd libsystemd-shared libseccomp2 libapparmor1 libkmod2 libip4tc2 libcap-ng0 libaudit1 libpam0g libcap2
    libacl1 libmount1 libblkid1 libselinux1 libpcre2-8-0 libgcrypt20 libgpg-error0 libssl3)
  quiet=(-qq -o Debug::NoLocking=true -o APT::Sandbox::User="$(id -un)")
  if ! apt-get "${quiet[@]}" download "${packages[@]}" 2>/dev/null; then
    # This machine's lists are missing or old: lists of our own, which need no root.
    mkdir -p apt/lists/partial apt/archives/partial
    quiet+=(-o Dir::State::lists="$out/apt/lists" -o Dir::Cache="$out/apt" -o Acquire::Languages=none -o Acquire::Retries=3)
    apt-get "${quiet[@]}" update
    apt-get "${quiet[@]}" download "${packages[@]}"
  fi
  for package in *.deb; do dpkg -x "$package" root; done
  rm -rf apt ./*.deb
  cat >systemd-analyze <<EOF
#!/bin/sh
# The program with its own libraries and units.
root=$out/root
libraries=\$(echo "\$root"/usr/lib/*-linux-gnu "\$root"/usr/lib/*-linux-gnu/systemd "\$root"/lib/*-linux-gnu "\$root"/lib/*-linux-gnu/systemd | tr ' ' :)
export LD_LIBRARY_PATH="\$libraries" SYSTEMD_UNIT_PATH="\${SYSTEMD_UNIT_PATH:-}\${SYSTEMD_UNIT_PATH:+:}\$root/lib/systemd/system"
exec "\$root/usr/bin/systemd-analyze" "\$@"
EOF
  chmod +x systemd-analyze
else
  echo '== No systemd to test with: tests/deployment cannot judge the units here, and leaves them out.'
  touch ready
  exit 0
fi
./systemd-analyze --version | head -n 1
touch ready

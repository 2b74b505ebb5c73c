#!/usr/bin/env bash
# A PostgreSQL to test with, in .build/postgres: the system's own, or else out of Debian's packages, not installed and without
# root. Elsewhere the one whose `initdb` is on the PATH; where there is none the tests say what to install.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/.build/postgres
rm -rf "$out"
mkdir -p "$out"
cd "$out"

have() { command -v "$1" >/dev/null; }
installed=$({ find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null || true; } | sort -V | tail -n 1)
if [ -n "$installed" ]; then
  ln -s "$(dirname "$installed")" bin
elif have initdb && have postgres; then
  ln -s "$(dirname "$(realpath "$(command -v initdb)")")" bin
elif have apt-get && have dpkg; then
  echo '== Fetching Debian'"'"'s PostgreSQL to .build/postgres (up to 90 MB, once, not installed)'
  mkdir -p apt/lists/partial apt/archives/partial
  cat > apt.conf <<EOT
APT::Install-Recommends "false";
APT::Get::Assume-Yes "true";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
Dir::State::lists "$out/apt/lists";
Dir::Cache "$out/apt";
Dir::Cache::archives "$out/apt/archives";
EOT
  export APT_CONFIG=$out/apt.conf
  apt-get -qq update
  apt-get -qq install --download-only postgresql
  for package in apt/archives/*.deb; do
    # The C library is the system's own, and what compiles queries is not needed.
    case $package in */libc6_*|*/libc-bin_*|*/perl*|*/libperl*|*/dpkg_*|*/libllvm*|*/libz3*) ;; *) dpkg -x "$package" root ;; esac
  done
  unset APT_CONFIG
  rm -rf apt apt.conf root/usr/share/doc root/usr/share/man root/usr/share/locale
  unpacked=$(find root/usr/lib/postgresql -path '*/bin/initdb' | sort -V | tail -n 1)
  ln -s "$(dirname "$unpacked")" bin
else
  echo '== No PostgreSQL to test with: install its server, so that initdb and postgres are on the PATH. Until then the tests'
  echo '   of the store that several coordinators share cannot run.'
  touch ready
  exit 0
fi
libraries=$(echo root/usr/lib/*-linux-gnu root/lib/*-linux-gnu | tr ' ' :)
LD_LIBRARY_PATH="$libraries" bin/postgres --version
touch ready

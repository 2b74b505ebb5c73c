#!/usr/bin/env bash
# A browser to test the page with, in .build/browser: Debian's Chromium without a window, its libraries and a font, unpacked,
# not installed and without root; Playwright, which drives it; and axe, which looks for what keeps people out. Elsewhere
# the Chromium that is on the PATH. Where there is none, the tests say so.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:?usage: tests/browser/fetch.sh PYTHON}
python=$(realpath -s "$(command -v "$python")")
requirements=$PWD/tests/browser/requirements.txt
out=$PWD/.build/browser
rm -rf "$out"
mkdir -p "$out"
cd "$out"

have() { command -v "$1" >/dev/null; }
if have chromium; then
  ln -s "$(command -v chromium)" chromium
elif have apt-get && have dpkg; then
  echo '== Fetching Debian'"'"'s Chromium to .build/browser (110 MB, once, not installed)'
  mkdir -p apt/lists/partial apt/archives/partial
  : > apt/status  # apt then names all that is needed, whatever this machine has
  cat > apt.conf <<EOT
APT::Install-Recommends "false";
APT::Get::Assume-Yes "true";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
Dir::State "$out/apt";
Dir::State::lists "$out/apt/lists";
Dir::State::status "$out/apt/status";
Dir::Cache "$out/apt";
Dir::Cache::archives "$out/apt/archives";
EOT
  export APT_CONFIG=$out/apt.conf
  apt-get -qq update
  apt-get -qq install --download-only chromium-headless-shell fonts-dejavu-core
  for package in apt/archives/*.deb; do
    # The C library is the system's own: the loader that starts the program belongs to it.
    case $package in */libc6_*|*/libc-bin_*|*/perl*|*/dpkg_*) ;; *) dpkg -x "$package" root ;; esac
  done
  unset APT_CONFIG
  rm -rf apt apt.conf
  cat > chromium <<EOT
#!/bin/sh
# The program with its own libraries and fonts.
root=$out/root
libraries=\$(echo "\$root"/usr/lib/*-linux-gnu "\$root"/usr/lib/*-linux-gnu/* "\$root"/lib/*-linux-gnu | tr ' ' :)
export LD_LIBRARY_PATH="\$libraries" FONTCONFIG_FILE="\$root/fonts.conf"
exec "\$root/usr/lib/chromium/chromium-headless-shell" "\$@"
EOT
  chmod +x chromium
  cat > root/fonts.conf <<EOT
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>$out/root/usr/share/fonts</dir><cachedir>$out/fonts</cachedir></fontconfig>
EOT
else
  echo '== No Chromium to test with: tests/browser cannot open the page here.'
  touch ready
  exit 0
fi
"$python" -m pip --disable-pip-version-check install -q --no-compile --no-deps --target site -r "$requirements"
./chromium --version
touch ready

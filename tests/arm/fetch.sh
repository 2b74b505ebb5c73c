#!/usr/bin/env bash
# An Arm machine to test on, in .build/arm: Debian's arm64 Python, numpy, xxhash and protobuf for aarch64 as
# constraints.txt has them, and a processor to run them on (user-mode qemu). Needs Debian's apt and dpkg, and no root:
# apt works on lists and a (quite empty) dpkg database of its own, so this machine's packages stay as they are.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:?usage: tests/arm/fetch.sh PYTHON}
python=$(realpath -s "$(command -v "$python")")  # not what a link of a virtual environment leads to
for tool in apt-get dpkg dpkg-deb tar; do
  command -v "$tool" >/dev/null || { echo "tests/arm/fetch.sh needs Debian's $tool, which is not here" >&2; exit 2; }
done
native=$(dpkg --print-architecture)
constraints=$PWD/constraints.txt
out=$PWD/.build/arm
rm -rf "$out"
mkdir -p "$out/apt/lists/partial" "$out/apt/archives/partial" "$out/root" "$out/wheels"
cd "$out"
: > apt/status
cat > apt.conf <<EOT
APT::Architecture "arm64";
APT::Architectures { "arm64"; "$native"; };
APT::Install-Recommends "false";
APT::Get::Assume-Yes "true";
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
apt-get -qq install --download-only python3 libstdc++6 "qemu-user-static:$native"
for package in apt/archives/*.deb; do
  case $package in
    */qemu-user-static_*) dpkg-deb --fsys-tarfile "$package" | tar -x -O ./usr/bin/qemu-aarch64-static > qemu ;;
    *) dpkg -x "$package" root ;;
  esac
done
chmod +x qemu
version=$(readlink root/usr/bin/python3)  # python3.11
"$python" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: -c "$constraints" \
  --python-version "${version#python}" --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
  --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 -d wheels numpy xxhash protobuf
for wheel in wheels/*.whl; do "$python" -m zipfile -e "$wheel" site; done
rm -rf apt wheels
./qemu -L root "root/usr/bin/$version" --version
touch ready

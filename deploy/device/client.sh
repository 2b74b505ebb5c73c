# shellcheck shell=bash
# What deploy/raspberry-pi/install.sh and deploy/jetson/install.sh share: one client of a fleet as a service of this
# device. The script that sources it defines
#   device_check     that this is such a device; calls `refuse` where it is not
#   find_python      sets PYTHON to a Python of 3.11 or newer that has venv, installing one if need be
#   torch_wanted     prints what pip is to install as torch, nothing where it is there already
# and then calls `main "$@"`. Every step looks first whether there is something to do, so that running it again mends or
# upgrades; everything that changes the device goes through `run` or `put`, which only say so with --dry-run.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT='' DRY='' WHEEL='' WHEELHOUSE='' SIGNERS='' SERVER='' DATA='' TIER='' NAME='' JOIN_FILE='' TORCH='' START=yes LIMIT='' UNINSTALL='' PURGE='' WANTED=''
JOIN=${ZOWARMUP_JOIN:-}
unset ZOWARMUP_JOIN

say() { printf '%s\n' "$*"; }
step() { printf '== %s\n' "$*"; }
refuse() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}
run() {
  if [ -n "$DRY" ]; then say "would run: $*"; else "$@"; fi
}
# put MODE FILE: standard input into a file, whole, if it is not there with the same content and mode.
put() {
  local content
  content=$(cat)
  if [ -n "$DRY" ]; then
    say "would write: $2 (mode $1)"
    return
  fi
  if [ -f "$2" ] && [ "$(cat "$2")" = "$content" ] && [ "$(stat -c %a "$2")" = "${1#0}" ]; then return; fi
  install -d -m 0755 "$(dirname "$2")"
  (umask 077 && printf '%s\n' "$content" >"$2.new")
  chmod "$1" "$2.new"
  mv "$2.new" "$2"
}
# On the running system only, not in a folder that stands for one.
live() { [ -z "$ROOT" ]; }

usage() {
  cat <<'EOF'
    --server HOST:PORT   the coordinator            \  not needed where the invitation is the whole line that
    --data SPEC          this device's data          > `zowarmup invite` printed; and not again once installed
    --tier low|high      low unless said otherwise  /
    --join-file FILE     the invitation; without it, ZOWARMUP_JOIN in the environment, or you are asked
    --name NAME          what to be called in the fleet (the host's name)
    --wheel FILE         zowarmup-*.whl (looked for in dist/, and where you are)
    --signers FILE       who may sign the package (ssh-keygen's allowed_signers): kept, and asked for from then on
    --wheelhouse DIR     the packages as wheels, for a device without the internet
    --torch WHAT         for --tier high: a wheel, or what pip calls it
    --limit-memory       let the kernel limit memory from the next start on, where it does not (a Raspberry Pi's)
    --no-start           leave the service stopped, and the doctor out
    --dry-run            say what would be done
    --root DIR           install below DIR, and leave this system's users and services alone
    --uninstall          remove it, but not the device's identity; with --purge that, too
EOF
}

options() {
  while [ $# -gt 0 ]; do
    case $1 in
      --server | --data | --tier | --join-file | --name | --wheel | --wheelhouse | --signers | --torch | --root)
        [ $# -ge 2 ] || refuse "$1 needs a value"
        case $1 in
          --server) SERVER=$2 ;; --data) DATA=$2 ;; --tier) TIER=$2 ;; --join-file) JOIN_FILE=$2 ;; --name) NAME=$2 ;;
          --wheel) WHEEL=$2 ;; --wheelhouse) WHEELHOUSE=$2 ;; --signers) SIGNERS=$2 ;; --torch) TORCH=$2 ;; --root) ROOT=${2%/} ;;
        esac
        shift 2
        ;;
      --limit-memory) LIMIT=yes && shift ;;
      --no-start) START='' && shift ;;
      --dry-run) DRY=yes && shift ;;
      --uninstall) UNINSTALL=yes && shift ;;
      --purge) PURGE=yes && shift ;;
      -h | --help) say "usage: sudo $0 [options]" && usage && exit 0 ;;
      *) refuse "$1 is not an option; --help lists them" ;;
    esac
  done
  OPT=$ROOT/opt/zowarmup ETC=$ROOT/etc/zowarmup STATE=$ROOT/var/lib/zowarmup UNITS=$ROOT/etc/systemd/system
}

# Words that systemd and a shell read as they stand.
plain() { [[ $2 =~ ^[A-Za-z0-9_.,:\;/=+@%~^-]+$ ]] || refuse "$1 '$2' holds what a file of settings would read otherwise"; }

# The settings: as given, else from the invitation, else as they were.
settings() {
  step "Settings"
  if [ -n "$JOIN_FILE" ]; then JOIN=$(cat "$JOIN_FILE") || refuse "--join-file $JOIN_FILE cannot be read"; fi
  if [ -z "$JOIN" ] && [ ! -f "$STATE/identity.json" ] && [ ! -f "$ETC/join.env" ] && [ -t 0 ]; then
    say "Paste the line that 'zowarmup invite' printed on the coordinator, and press Enter (it is not shown):"
    read -rs JOIN
  fi
  local words=() at word
  read -ra words <<<"$JOIN" || true
  for at in "${!words[@]}"; do
    word=${words[at + 1]:-}
    case ${words[at]} in
      --server) SERVER=${SERVER:-$word} ;;
      --data) DATA=${DATA:-$word} ;;
      --tier) TIER=${TIER:-$word} ;;
    esac
  done
  JOIN=${words[0]:-}
  JOIN=${JOIN#ZOWARMUP_JOIN=}
  if [ -f "$ETC/client.env" ]; then
    SERVER=${SERVER:-$(setting SERVER)} DATA=${DATA:-$(setting DATA)}
    local options
    options=$(setting CLIENT_OPTIONS)
    if [ -z "$TIER" ]; then TIER=$(sed -n 's/.*--tier \([a-z]*\).*/\1/p' <<<"$options"); fi
    if [ -z "$NAME" ]; then NAME=$(sed -n 's/.*--name \([^ ]*\).*/\1/p' <<<"$options"); fi
  fi
  TIER=${TIER:-low}
  [ -n "$SERVER" ] || refuse "say where the coordinator is: --server HOST:PORT, or paste the whole line of zowarmup invite"
  [ -n "$DATA" ] && [ "$DATA" != SPEC ] || refuse "say what this device's data is: --data npz:/srv/zowarmup/mine.npz"
  case $TIER in low | high) ;; *) refuse "--tier $TIER: must be low or high" ;; esac
  case $DATA in *:/home/* | *:/root/*) refuse "--data $DATA: the service cannot see home directories; move it to /srv/zowarmup" ;; esac
  plain --server "$SERVER" && plain --data "$DATA"
  if [ -n "$NAME" ]; then plain --name "$NAME"; fi
  [[ -z $JOIN || $JOIN =~ ^zw1\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*$ ]] ||
    refuse "that is no invitation: copy the whole line that zowarmup invite printed"
  say "the $TIER tier at $SERVER, with $DATA"
}

setting() { sed -n "s/^ZOWARMUP_$1=//p" "$ETC/client.env"; }

find_wheel() {
  local found
  if [ -z "$WHEEL" ]; then
    for found in "$HERE"/../../dist/zowarmup-*.whl "$HERE"/../../zowarmup-*.whl ./zowarmup-*.whl; do
      if [ -f "$found" ]; then WHEEL=$found; fi
    done
  fi
  [ -f "$WHEEL" ] || refuse "no zowarmup-*.whl ${WHEEL:+at $WHEEL}: make one (make wheel) and give it with --wheel"
  WHEEL=$(cd "$(dirname "$WHEEL")" && pwd)/$(basename "$WHEEL")
}

# That the package is whole and, on a device that knows who may sign it, that one of them did.
verify_wheel() {
  local folder name signers=$ETC/allowed_signers
  folder=$(dirname "$WHEEL") name=$(basename "$WHEEL")
  if [ -f "$folder/SHA256SUMS" ]; then
    (cd "$folder" && sha256sum --check --status --ignore-missing SHA256SUMS && grep -qF "  $name" SHA256SUMS) ||
      refuse "$WHEEL is not what $folder/SHA256SUMS says: copy both again"
  fi
  if [ -n "$SIGNERS" ]; then
    [ -f "$SIGNERS" ] || refuse "--signers $SIGNERS: there is no such file"
    signers=$SIGNERS
  fi
  [ -f "$signers" ] || return 0
  step "Signature"
  command -v ssh-keygen >/dev/null || refuse "$signers asks for a signature, and ssh-keygen is missing: install openssh-client"
  [ -f "$WHEEL.sig" ] || refuse "there is no $WHEEL.sig, and $signers asks for a signature: sign it (make wheel KEY=...), or take the right package"
  ssh-keygen -Y verify -f "$signers" -I zowarmup -n zowarmup -s "$WHEEL.sig" <"$WHEEL" >/dev/null 2>&1 ||
    refuse "$WHEEL is not signed by anybody in $signers: do not install it"
  say "$name is signed by one of $signers"
  if [ -n "$SIGNERS" ]; then put 0644 "$ETC/allowed_signers" <"$SIGNERS"; fi
}

add_user() {
  live || return 0
  step "User zowarmup"
  getent passwd zowarmup >/dev/null ||
    run useradd --system --user-group --home-dir /var/lib/zowarmup --no-create-home --shell /usr/sbin/nologin zowarmup
  run install -d -m 0755 /srv/zowarmup
}

packages() {
  step "Packages in $OPT"
  local pip=("$OPT/bin/python" -m pip --disable-pip-version-check install --quiet) with=() constraints done
  done="$(sha256sum <"$WHEEL") $PYTHON $WANTED"
  if [ -f "$OPT/installed" ] && [ "$(cat "$OPT/installed")" = "$done" ]; then
    say "as they are: they are of this very wheel"
    return
  fi
  run rm -f "$OPT/installed"
  if [ ! -x "$OPT/bin/python" ] || ! "$OPT/bin/python" -m pip --version >/dev/null 2>&1; then
    # Beside a torch that the system has, as on a Jetson.
    if [ "$TIER" = high ] && [ -z "$WANTED" ]; then with=(--system-site-packages); fi
    run "$PYTHON" -m venv --clear "${with[@]}" "$OPT"
  fi
  if [ -n "$WHEELHOUSE" ]; then pip+=(--no-index --find-links "$WHEELHOUSE"); fi
  # The versions that were tested, but for torch, of which devices need another.
  if [ -f "$HERE/../../constraints.txt" ]; then
    constraints=$(mktemp)
    grep -v '^torch==' "$HERE/../../constraints.txt" >"$constraints"
    pip+=(--constraint "$constraints")
  fi
  if [ -n "$WANTED" ]; then run "${pip[@]}" "$WANTED"; fi
  run "${pip[@]}" "zowarmup[images] @ file://$WHEEL"
  # The same version anew, where the wheel is another one.
  run "${pip[@]}" --no-deps --force-reinstall "zowarmup @ file://$WHEEL"
  if [ -n "${constraints:-}" ]; then rm -f "$constraints"; fi
  put 0644 "$OPT/installed" <<<"$done"
}

configure() {
  step "Service zowarmup-client"
  put 0600 "$ETC/client.env" <<EOF
# Written by $(basename "$0"); read by zowarmup-client.service.
ZOWARMUP_SERVER=$SERVER
ZOWARMUP_DATA=$DATA
ZOWARMUP_CLIENT_OPTIONS=--tier $TIER${NAME:+ --name $NAME}
EOF
  if [ -n "$JOIN" ]; then put 0600 "$ETC/join.env" <<<"ZOWARMUP_JOIN=$JOIN"; fi
  put 0644 "$UNITS/zowarmup-client.service" <"$HERE/../systemd/zowarmup-client.service"
  if [ "$TIER" = high ]; then
    put 0644 "$UNITS/zowarmup-client.service.d/high-tier.conf" <"$HERE/../systemd/high-tier.conf"
  else
    run rm -f "$UNITS/zowarmup-client.service.d/high-tier.conf"
  fi
  local path
  path=$(data_path)
  if [ -n "$path" ]; then
    put 0644 "$UNITS/zowarmup-client.service.d/data.conf" <<<"[Service]"$'\n'"BindReadOnlyPaths=$path"
  else
    run rm -f "$UNITS/zowarmup-client.service.d/data.conf"
  fi
  if live; then run systemctl daemon-reload; fi
}

# The file or folder that the service would not see: an absolute one outside /srv/zowarmup.
data_path() {
  local path
  case $DATA in
    *:/srv/zowarmup/*) ;;
    *:/*)
      path=${DATA#*:}
      path=${path%%[,:]*}
      printf '%s' "$path"
      ;;
  esac
}

# A Raspberry Pi's firmware starts the kernel with cgroup_disable=memory. What cmdline.txt says comes after that, and counts.
memory_limit() {
  local controllers=$ROOT/sys/fs/cgroup/cgroup.controllers cmdline=$ROOT/boot/firmware/cmdline.txt line answer=''
  if [ ! -r "$controllers" ] || grep -qw memory "$controllers"; then return; fi
  step "Memory limit"
  say "this kernel limits no service's memory (cgroup_disable=memory): MemoryMax of zowarmup-client does not hold yet"
  if [ ! -f "$cmdline" ]; then
    say "start the kernel with cgroup_enable=memory"
    return
  fi
  line=$(cat "$cmdline")
  if [[ " $line " == *" cgroup_enable=memory "* ]]; then
    say "$cmdline asks for it: reboot; if it still does not, upgrade the kernel (sudo apt full-upgrade)"
    return
  fi
  if [ -z "$LIMIT$DRY" ] && [ -t 0 ]; then
    read -rp "Append cgroup_enable=memory to the line in $cmdline now? [y/N] " answer
  fi
  if [ -n "$LIMIT" ] || [[ $answer == [yY]* ]]; then
    put "$(stat -c %a "$cmdline")" "$cmdline" <<<"$line cgroup_enable=memory"
    say "cgroup_enable=memory is in $cmdline: reboot, and the limit holds"
  else
    say "append cgroup_enable=memory to the one line of $cmdline and reboot, or run this again with --limit-memory"
  fi
}

start() {
  if live; then
    step "Start"
    run systemctl enable --quiet zowarmup-client.service
    run systemctl restart zowarmup-client.service
    # The doctor has more to say of a member.
    for _ in $(seq 20); do
      if [ -n "$DRY" ] || [ -f "$STATE/identity.json" ]; then break; fi
      sleep 1
    done
    if [ -f "$STATE/identity.json" ]; then run rm -f "$ETC/join.env"; fi
  fi
}

doctor() {
  step "Doctor"
  local command=("$OPT/bin/zowarmup-client" --doctor --server "$SERVER" --data "$DATA" --tier "$TIER" --state-dir "$STATE")
  if live; then command=(runuser -u zowarmup -- "${command[@]}"); fi
  ZOWARMUP_JOIN=$JOIN run "${command[@]}" # in the environment, where no list of processes shows it
}

uninstall() {
  step "Uninstall"
  if live; then run systemctl disable --now --quiet zowarmup-client.service 2>/dev/null || true; fi
  run rm -rf "$UNITS/zowarmup-client.service" "$UNITS/zowarmup-client.service.d" "$OPT"
  run rm -f "$ETC/client.env" "$ETC/join.env"
  if live; then run systemctl daemon-reload; fi
  if [ -n "$PURGE" ]; then
    run rm -rf "$STATE"
    if live && getent passwd zowarmup >/dev/null; then run userdel zowarmup; fi
  elif [ -e "$STATE" ]; then
    say "$STATE keeps this device's identity and replica; --uninstall --purge removes them, too"
  fi
}

main() {
  options "$@"
  if live && [ -z "$DRY" ] && [ "$(id -u)" != 0 ]; then refuse "run it as root: sudo $0 ..."; fi
  if [ -n "$UNINSTALL" ]; then
    uninstall
    return
  fi
  device_check
  settings
  find_wheel
  verify_wheel
  find_python
  if [ "$TIER" = high ]; then WANTED=$(torch_wanted); fi
  add_user
  packages
  configure
  memory_limit
  if [ -n "$START" ]; then
    start
    doctor
  fi
}

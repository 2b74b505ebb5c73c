#!/bin/bash
# carry.sh PRE [ONTO]: in a clean worktree whose branch was made before the move. PRE: the commit of main just before the
# move. ONTO: where the branch shall stand afterwards (main). The branch is rebased on PRE (conflicts: resolve as ever, and
# run this again), each of its commits is moved into the rooms by move.py, and the result is rebased on ONTO.
set -eu
PRE=$(git rev-parse "$1"); ONTO=${2:-main}; HERE=$(cd "$(dirname "$0")" && pwd); B=$(git rev-parse --abbrev-ref HEAD)
[ -z "$(git status --porcelain --untracked-files=no)" ] || { echo "carry: commit your changes first"; exit 1; }
git rebase "$PRE"
moved() { # commit -> tree after move.py
  git checkout -q --detach "$1" && python "$HERE/move.py" >/tmp/carry.$$ 2>&1 || { cat /tmp/carry.$$ >&2; exit 1; }
  git write-tree; git reset -q --hard "$1"; git clean -fdq -- common server client cli lab tests docs; }
TIP=$(git rev-parse HEAD)
BASE=$(git commit-tree "$(moved "$PRE")" -p "$PRE" -m "moved"); P=$BASE
for c in $(git rev-list --reverse "$PRE..$TIP"); do
  T=$(moved "$c")
  P=$(GIT_AUTHOR_NAME=$(git log -1 --format=%an "$c") GIT_AUTHOR_EMAIL=$(git log -1 --format=%ae "$c") GIT_AUTHOR_DATE=$(git log -1 --format=%ad "$c") \
      git commit-tree "$T" -p "$P" -F <(git log -1 --format=%B "$c"))
  echo "carried: $(git log -1 --format=%s "$c")"
done
git checkout -q -B "$B" "$P"
python3 hatch_build.py >/dev/null 2>&1 || .venv/bin/python hatch_build.py; touch .venv/ready .build/ready
git rebase --onto "$ONTO" "$BASE" "$B"
touch .venv/ready .build/ready

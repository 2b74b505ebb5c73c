#!/bin/bash
# snap.sh NAME: a commit object of a worktree as it is now, touching nothing there
cd ../$1; export GIT_INDEX_FILE=/tmp/idx.$1; cp "$(git rev-parse --git-dir)/index" $GIT_INDEX_FILE; git add -A >/dev/null 2>&1; t=$(git write-tree); git commit-tree $t -p HEAD -m "snap $1"; rm -f $GIT_INDEX_FILE

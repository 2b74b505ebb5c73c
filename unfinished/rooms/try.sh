#!/bin/bash
# try.sh [base]: the script on a fresh branch in ../rooms
W=${W:-rooms2}; cd ../$W && git reset -q --hard && git checkout -q -B w-$W ${1:-main} && git clean -fdqx -e .venv -e .build -e .mypy_cache && python rooms-script/move.py

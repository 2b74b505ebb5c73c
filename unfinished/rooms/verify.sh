#!/bin/bash
# verify.sh [base]: the script on a fresh branch, then ruff, mypy, layering, documents
rooms-script/try.sh ${1:-main} | grep -v "^move:"; cd ../${W:-rooms2}; git log --oneline -1
.venv/bin/ruff check --output-format concise | tail -5; .venv/bin/ruff format --check | tail -1; nice -n 19 .venv/bin/mypy | tail -8
nice -n 19 .venv/bin/pytest -q -n 0 -p no:cacheprovider tests/test_layering.py tests/unit/test_documents.py 2>&1 | tail -15

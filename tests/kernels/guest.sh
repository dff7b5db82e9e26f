#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What a guest of `make test-kernels` does: the tests, and to bring home what had to be compiled here for the next time.
cache=/var/cache/pydp/compiled
mkdir -p "$PYDP_LAB_RESULTS/compiled"
before=$(ls "$cache" 2>/dev/null)
python -m pytest -v --timeout 900 -o cache_dir=/run/pytest -p tests.kernels.plugin "$@"
status=$?
mapfile -t new < <(comm -13 <(sort <<<"$before") <(find "$cache" -type f -name '[0-9a-f]*' -printf '%f\n' 2>/dev/null | sort))
for name in "${new[@]}"; do
	cp "$cache/$name" "$PYDP_LAB_RESULTS/compiled"
done
exit "$status"

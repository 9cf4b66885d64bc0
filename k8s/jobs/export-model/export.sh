#!/bin/sh
# Build, verify and publish a version, once for the same inputs: `c3d-export build` writes a hidden
# folder in the model store, verifies it there, and renames it to the next number. The note left in
# the version tells the next run what it was made of, and goes when the version goes.
set -eu

store=${MODEL_STORE:-/models/c3d}

inputs() {
    c3d-export --version
    for value in "$WEIGHTS" "$MEAN" "$LABELS"; do
        case "$value" in
        /*) sha256sum <"$value" ;;
        *) echo "$value" ;;
        esac
    done
    echo "$PRECISION"
}

digest=$(inputs | sha256sum | cut -c1-16)
for note in "$store"/*/made-of; do
    if [ -f "$note" ] && [ "$(cat "$note")" = "$digest" ]; then
        echo "${note%/made-of}: made of the same inputs ($digest); nothing to do"
        exit 0
    fi
done

set -- --weights "$WEIGHTS" --precision "$PRECISION" --out "$store"
[ -z "$MEAN" ] || set -- "$@" --mean "$MEAN"
[ -z "$LABELS" ] || set -- "$@" --labels "$LABELS"
report=$(c3d-export build "$@")
echo "$report"

# The line that begins with the version's folder: "/models/c3d/3: C3D ...".
version=$(echo "$report" | sed -n "s|^\($store/[0-9][0-9]*\):.*|\1|p" | head -n 1)
echo "$digest" >"$version/made-of"

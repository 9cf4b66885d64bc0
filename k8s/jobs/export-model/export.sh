#!/bin/sh
# Build, verify and publish a version, once for the same inputs: `c3d-export build` writes a hidden
# folder in the model store, verifies it there, and renames it to the next number, with a note in
# it of what it was made of.
set -eu

store=${MODEL_STORE:-/models/c3d}

set -- --weights "$WEIGHTS" --precision "$PRECISION"
[ -z "$MEAN" ] || set -- "$@" --mean "$MEAN"
[ -z "$LABELS" ] || set -- "$@" --labels "$LABELS"
[ -z "${CHANNELS:-}" ] || set -- "$@" --channels "$CHANNELS"
[ -z "${FC6_ROWS:-}" ] || set -- "$@" --fc6-rows "$FC6_ROWS"
exec c3d-export build "$@" --out "$store" --unless-in "$store"

#!/bin/sh
# Make a version of what the settings name, once for the same inputs. Files below /weights that are
# not there are downloaded by their published names. `c3d-export build` then writes a hidden folder
# in the model store, verifies it there, and renames it to the next number, with a note in it of what
# it was made of. Exit codes are those of c3d-export: 0 made, or nothing to make; 2 wrong settings or
# a full store; 75 network errors.
set -eu

store=${MODEL_STORE:-/models/c3d}

set -- --weights "$WEIGHTS" --precision "$PRECISION"
# SERVERS comes from component gpu. Settings of earlier releases have no TARGET, and their float16
# has always been for GPUs. Their bfloat16 may be for servers on other nodes than this pod's.
case "${TARGET:-${SERVERS:-}}:$PRECISION" in
:float16) set -- "$@" --target gpu ;;
:bfloat16) set -- "$@" --target cpu --elsewhere ;;
:*) set -- "$@" --target cpu ;;
*) set -- "$@" --target "${TARGET:-$SERVERS}" ;;
esac
[ -z "$MEAN" ] || set -- "$@" --mean "$MEAN"
[ -z "$LABELS" ] || set -- "$@" --labels "$LABELS"
[ -z "${CONVOLUTION:-}" ] || set -- "$@" --convolution "$CONVOLUTION"
[ -z "${CHANNELS:-}" ] || set -- "$@" --channels "$CHANNELS"
[ -z "${FC6_ROWS:-}" ] || set -- "$@" --fc6-rows "$FC6_ROWS"
case "${OVER_TRAINED:-}" in
yes) set -- "$@" --over-trained ;;
'' | no) ;;
*)
    echo "OVER_TRAINED is '$OVER_TRAINED': expected yes, or nothing" >&2
    exit 2
    ;;
esac

for file in "$WEIGHTS" "$MEAN" "$LABELS"; do
    case "$file" in
    /weights/*)
        if [ -f "$file" ]; then
            echo "$file: there"
        else
            echo "$file: not there; looking for a published file of this name"
            # In the background, because a shell acts on SIGTERM only between commands. The handler
            # comes first: as process 1 of a container, a shell without one ignores the signal.
            trap 'kill "${!:-}" && wait "$!"; exit 143' TERM
            c3d-export fetch --models /weights "${file#/weights/}" &
            wait "$!"
        fi
        ;;
    *) ;; # demo, random:SEED, numbers, or nothing: no file
    esac
done

exec c3d-export build "$@" --out "$store" --unless-in "$store"

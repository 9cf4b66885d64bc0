#!/bin/sh
# Download the files that the settings name below /weights, unless they are there already (a claim of
# yours). c3d-export retries and checks a download; after an error the Job tries again in a new pod.
set -eu

for file in "$WEIGHTS" "$MEAN" "$LABELS"; do
    case "$file" in
    /weights/*)
        if [ -f "$file" ]; then
            echo "$file: there"
        else
            c3d-export fetch --models /weights "${file#/weights/}"
        fi
        ;;
    *) ;; # demo, random:SEED, numbers, or nothing: no file
    esac
done

#!/bin/sh
# Write TensorFlow Serving's SSLConfig: a text proto that holds the PEM files themselves, not their
# names. PEM has no quote and no backslash, so that each line becomes a quoted string of its own;
# neighbours are one string.
set -eu

secret=${1:-/etc/c3d-secret}
target=${2:-/etc/c3d-tls/ssl.config}

field() {
    printf '%s:\n' "$1"
    # A carriage return before a line's end would be kept.
    sed -e 's/\r$//' -e 's/.*/  "&\\n"/' "$2"
    echo
}

umask 077
{
    field server_key "$secret/tls.key"
    field server_cert "$secret/tls.crt"
    if [ "${C3D_TLS_CLIENT_VERIFY:-false}" = true ]; then
        # Who signed the certificates that clients must show.
        field custom_ca "$secret/ca.crt"
        echo 'client_verify: true'
    else
        echo 'client_verify: false'
    fi
} >"$target.writing"
mv "$target.writing" "$target"

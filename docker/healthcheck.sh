#!/bin/sh
# `healthcheck VARIABLE DEFAULT PATH`: exit 0 where http://127.0.0.1:$VARIABLE/PATH answers 200.
# For images with curl; healthcheck.py is the same for those with Python.
set -eu
port=
eval "port=\${$1:-$2}"
exec curl --silent --show-error --fail --max-time 8 --noproxy '*' --output /dev/null "http://127.0.0.1:$port$3"

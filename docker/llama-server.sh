#!/bin/sh
# llama.cpp's own server with the settings of .env.sample; more arguments are passed on to it.
set -eu

fail() {
    echo "llama-server: $1" >&2
    exit 1
}

whole_number() {
    case $2 in
    "" | *[!0-9]*) fail "$1 must be a whole number (it is '$2')." ;;
    esac
}

model=${MODEL_PATH:-/models/model.gguf}
context=${N_CTX:-4096}
projector=${MMPROJ_PATH:-}
slots=${N_PARALLEL:-4}
layers=${N_GPU_LAYERS:-0}

[ -e "$model" ] || fail "MODEL_PATH: there is no file $model. Put a GGUF file there, or name one that is there."
[ -f "$model" ] || fail "MODEL_PATH: $model is a folder. Name the GGUF file in it."
[ -r "$model" ] || fail "MODEL_PATH: $model may not be read by user $(id -u). Change its permissions (chmod a+r)."
[ "$(head -c 4 "$model" | tr -d '\0')" = GGUF ] || fail "MODEL_PATH: $model is not a GGUF file. llama.cpp reads no other."
[ -z "$projector" ] || [ -r "$projector" ] || fail "MMPROJ_PATH: there is no file $projector that may be read."
whole_number N_CTX "$context"
whole_number N_PARALLEL "$slots"
[ "$context" -gt 0 ] || fail "N_CTX must be at least 1."
[ "$slots" -gt 0 ] || fail "N_PARALLEL must be at least 1."
[ "$layers" = -1 ] || whole_number N_GPU_LAYERS "$layers"

name=$(basename "$(readlink -f "$model")" .gguf)
export LLAMA_ARG_MODEL="$model" LLAMA_ARG_ALIAS="$name"
# The server divides its context among the slots; N_CTX is what one request may use.
export LLAMA_ARG_CTX_SIZE=$((context * slots)) LLAMA_ARG_N_PARALLEL="$slots"
[ "$layers" = -1 ] && layers=all
export LLAMA_ARG_N_GPU_LAYERS="$layers"
export LLAMA_ARG_HOST="${HOST:-0.0.0.0}" LLAMA_ARG_PORT="${PORT:-8000}"
export LLAMA_ARG_ENDPOINT_METRICS=1 LLAMA_ARG_ENDPOINT_SLOTS=1
# Prompts kept for reuse, MiB of memory; llama.cpp's own default (8192) alone would fill the container.
export LLAMA_ARG_CACHE_RAM="${LLAMA_ARG_CACHE_RAM:-512}"
[ -z "$projector" ] || export LLAMA_ARG_MMPROJ="$projector"
[ -z "${N_THREADS:-}" ] || export LLAMA_ARG_THREADS="$N_THREADS"
[ -z "${LLM_API_KEY:-}" ] || export LLAMA_API_KEY="$LLM_API_KEY"
case ${EMBEDDING:-false} in
true | 1 | yes | on)
    # With a pooling type it embeds and still completes. An input must fit one batch; a large one costs memory
    # (tokens x vocabulary x 4 bytes). llama.cpp aborts where it is not a multiple of the slots
    # (ggml-org/llama.cpp#27175, b11434).
    batch=$((context < 2048 ? context : 2048))
    batch=$(((batch + slots - 1) / slots * slots))
    export LLAMA_ARG_EMBEDDINGS=1 LLAMA_ARG_POOLING=mean LLAMA_ARG_BATCH="$batch" LLAMA_ARG_UBATCH="$batch"
    ;;
false | 0 | no | off) ;;
*) fail "EMBEDDING must be true or false (it is '$EMBEDDING')." ;;
esac

exec llama-server "$@"

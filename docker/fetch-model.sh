#!/bin/sh
# `fetch-model gguf|hf DEFAULT_REPO [DEFAULT_FILE]`: exit 0 once MODEL is there and usable.
#
# MODEL        path the server will open, or (hf) a Hugging Face name, which the server fetches itself
# MODEL_REPO   where it comes from when it is absent; DEFAULT_REPO where nothing is said
# MODEL_FILE   (gguf) the file in MODEL_REPO
# MODELS_DIR   folder that models are pulled into
set -eu

kind=$1
case $MODEL in
/* | ./*) ;;
*)
    if [ "$kind" = gguf ]; then
        echo "models: MODEL_PATH must be a path in the container, such as /models/gguf/NAME.gguf (it is '$MODEL')." >&2
        exit 1
    fi
    echo "models: $MODEL is a Hugging Face name; the server fetches it itself."
    exit 0
    ;;
esac

if [ ! -e "$MODEL" ]; then
    if [ ! -w "$MODELS_DIR" ]; then
        echo "models: user $(id -u) may not write to MODELS_DIR, which belongs to user $(stat -c %u "$MODELS_DIR")." \
            "Set MODELS_UID and MODELS_GID in .env to its owner." >&2
        exit 1
    fi
    repo=${MODEL_REPO:-$2}
    if [ "$kind" = gguf ]; then
        [ -n "${MODEL_REPO:-}" ] || MODEL_FILE=$3
        pulled=gguf/$MODEL_FILE
        kc-worker models pull "$repo" "$MODEL_FILE"
    else
        pulled=hf/$(echo "$repo" | sed 's|/|--|g')
        kc-worker models pull --hf "$repo"
    fi
    if [ ! -e "$MODEL" ]; then
        case $MODEL in
        "$MODELS_DIR"/*) ;;
        *)
            echo "models: $MODEL is not below $MODELS_DIR, where models are kept. Change MODEL_PATH or MODEL_NAME." >&2
            exit 1
            ;;
        esac
        mkdir -p "$(dirname "$MODEL")"
        # Relative, so that it is right on the host too, whatever MODELS_DIR is there.
        ln -sfn "$(realpath --relative-to="$(dirname "$MODEL")" "$MODELS_DIR/$pulled")" "$MODEL"
    fi
fi
echo "models: $MODEL is $(readlink -f "$MODEL")"
exec kc-worker models check "$MODEL"

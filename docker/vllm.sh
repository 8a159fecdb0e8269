#!/bin/sh
# vLLM's OpenAI-compatible server with the settings of .env.sample; more arguments are passed on to it.
# VLLM_COMMAND: what to start instead of `vllm serve`. vLLM for CPUs from a wheel has no such command; there it is
# `python -m vllm.entrypoints.openai.api_server`, which wants the model as an option.
set -eu

fail() {
    echo "vllm: $1" >&2
    exit 1
}

# vLLM takes it for a port of its own between its processes; Kubernetes sets it to a URL beside a service named vllm.
unset VLLM_PORT
for name in HF_TOKEN HF_ENDPOINT LLM_API_KEY; do
    eval "value=\${$name:-}"
    [ -n "$value" ] || unset "$name"
done

model=${MODEL_NAME:-/models/model}
case $model in
/* | ./*)
    [ -d "$model" ] || fail "MODEL_NAME: there is no folder $model. Put a model there, or give a Hugging Face name."
    [ -f "$model/config.json" ] || fail "MODEL_NAME: $model has no config.json. It must be a folder in Hugging Face layout."
    served=$(basename "$(readlink -f "$model")")
    ;;
*) served=$model ;;
esac
[ -z "${LLM_API_KEY:-}" ] || export VLLM_API_KEY="$LLM_API_KEY"

if [ -z "${VLLM_COMMAND:-}" ]; then
    VLLM_COMMAND="vllm serve"
    set -- "$model" "$@"
else
    set -- --model "$model" "$@"
fi
# shellcheck disable=SC2086  # several words
exec $VLLM_COMMAND "$@" \
    --served-model-name "$served" \
    --host "${HOST:-0.0.0.0}" \
    --port "${PORT:-8000}" \
    --tensor-parallel-size "${TENSOR_PARALLEL_SIZE:-1}" \
    --gpu-memory-utilization "${GPU_MEMORY_UTILIZATION:-0.9}" \
    --max-model-len "${MAX_MODEL_LEN:-4096}"

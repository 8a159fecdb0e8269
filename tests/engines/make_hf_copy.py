"""SmolLM2 as Hugging Face files, made from its GGUF: `make_hf_copy.py GGUF FOLDER`; run in vLLM's environment."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def main() -> None:
    """Write model, tokenizer and chat template into the folder."""
    gguf, folder = Path(sys.argv[1]), Path(sys.argv[2])
    place = str(gguf.parent)
    model = AutoModelForCausalLM.from_pretrained(
        place, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=gguf.name)
    if not tokenizer.chat_template:
        sys.exit(f"{gguf} brings no chat template.")
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()

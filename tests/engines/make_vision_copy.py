"""SmolLM2 that takes pictures, as Hugging Face files: `make_vision_copy.py TEXT_MODEL FOLDER`; in vLLM's environment.

The layout is Idefics3's (SmolVLM's): SmolLM2's own text weights, behind a small vision tower of random weights.
Pictures are really taken, encoded and counted; what the model says of them means nothing.
"""

import sys
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

_SPECIAL = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>"]
#: Of the vision tower; pictures are made this small before it looks at them, pixels.
_SIDE, _PATCH, _WIDTH, _SCALE = 64, 16, 64, 2
_TEMPLATE = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['content'] is string %}\
{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\
{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def main() -> None:
    """Write model, tokenizer, processor and chat template into the folder."""
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    tokenizer = AutoTokenizer.from_pretrained(source)
    text = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    tokenizer.add_special_tokens({"additional_special_tokens": _SPECIAL})
    text.resize_token_embeddings(len(tokenizer))
    torch.manual_seed(1)
    config = Idefics3Config(
        text_config=text.config.to_dict(),
        vision_config={
            "hidden_size": _WIDTH,
            "intermediate_size": 2 * _WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": _SIDE,
            "patch_size": _PATCH,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=_SCALE,
        tie_word_embeddings=text.config.tie_word_embeddings,
    )
    model = Idefics3ForConditionalGeneration(config).to(torch.bfloat16)
    model.model.text_model.load_state_dict(text.model.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    size = {"longest_edge": _SIDE}
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(size=size, max_image_size=size, do_image_splitting=False),
        tokenizer=tokenizer,
        image_seq_len=(_SIDE // _PATCH // _SCALE) ** 2,
        chat_template=_TEMPLATE,
    )
    processor.save_pretrained(folder)


if __name__ == "__main__":
    main()

"""A tiny GPT-2 with random weights, with the logits and the greedy text that transformers computes for it.

    python tests/text_models_golden.py        # writes tests/golden/gpt2_tiny/; needs torch and transformers

Every tensor is random, biases and norms too, so that one that is left out or confused with another changes the logits.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "golden" / "gpt2_tiny"
EXPECTED = "expected.safetensors"  # tokens [N, L], logits [N, L, V]; prompt [N, P], greedy [N, 40]
SIZES = {"vocab_size": 96, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}


def random_model(seed: int = 0, **config):
    """A GPT2LMHeadModel of transformers, all of whose parameters are random."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**(SIZES | {"bos_token_id": None, "eos_token_id": None} | config))).eval()
    with torch.no_grad():
        for name, x in model.named_parameters():
            x.add_(torch.randn_like(x) * (0.1 if x.ndim == 1 else 0.5 if "wpe" in name else 0.2))
    return model


def greedy(model, prompt, num_tokens: int):
    """The greedy continuation of prompts int64 `[N, P]` of equal length, `[N, num_tokens]`."""
    import torch

    mask = torch.ones_like(prompt)
    out = model.generate(prompt, attention_mask=mask, max_new_tokens=num_tokens, do_sample=False, pad_token_id=0)
    return out[:, prompt.shape[1] :]


def main() -> None:
    import torch
    from safetensors.torch import save_file

    model = random_model()
    model.save_pretrained(FOLDER, safe_serialization=True)
    (FOLDER / "generation_config.json").unlink(missing_ok=True)
    tokens = torch.randint(SIZES["vocab_size"], (3, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(tokens).logits
    prompt = tokens[:, :5].contiguous()
    arrays = {"tokens": tokens, "logits": logits, "prompt": prompt, "greedy": greedy(model, prompt, 40)}
    arrays = {name: (x if x.is_floating_point() else x.to(torch.int32)).contiguous() for name, x in arrays.items()}
    save_file(arrays, FOLDER / EXPECTED)
    for path in sorted(FOLDER.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()

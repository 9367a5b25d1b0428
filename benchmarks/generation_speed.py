"""Tokens per second that a GPT writes on this machine's CPU, beside Hugging Face's `generate` on PyTorch.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 transformers
    python -m benchmarks.generation_speed --torch-python=/tmp/torch/bin/python

Both sides have 6 layers of width 384 and a vocabulary of 512 (10.8 million parameters) with random weights; 8 prompts
of 32 tokens, 128 more tokens for each, drawn from the 50 most probable, float32, all cores; nothing ends a text early.
Each is warmed up, then they take turns. Ours is `LanguageModeling.predict` as the command runs it, compiled; theirs is
`generate`. PyTorch lives in an environment of its own.
"""

import argparse
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.turns import contest, run

LAYERS, WIDTH, HEADS, VOCAB, TOP_K = 6, 384, 6, 512, 50
BATCH, PROMPT, NEW_TOKENS = 8, 32, 128
TOTAL = PROMPT + NEW_TOKENS


def prompts() -> np.ndarray:
    """Random tokens, int64 [batch, PROMPT]."""
    return np.random.default_rng(0).integers(1, VOCAB, (BATCH, PROMPT))


def heed() -> Callable[[], np.ndarray]:
    """A call that continues the prompts with this project."""
    import jax
    import jax.numpy as jnp

    from research.data.tokenizer import Tokenizer
    from research.memory import keep_memory
    from research.models.gpt import GPT
    from research.tasks.language_modeling import LanguageModeling

    keep_memory()
    model = GPT(VOCAB, num_layers=LAYERS, width=WIDTH, num_heads=HEADS, max_length=TOTAL)
    vocabulary: Any = types.SimpleNamespace(end_token=VOCAB)  # no token is
    task = LanguageModeling(Tokenizer("bpe", 512), TOTAL, temperature=1.0, top_k=TOP_K, vocabulary=vocabulary)
    tokens = np.pad(prompts(), [(0, 0), (0, NEW_TOKENS)], constant_values=-1)
    batch = {"tokens": jnp.asarray(tokens, jnp.int32), "prompt_length": jnp.full(BATCH, PROMPT, jnp.int32)}
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, PROMPT), jnp.int32))
    predict = jax.jit(lambda variables, batch: task.predict(model, variables, batch))
    return lambda: np.asarray(predict(variables, batch))


def generate() -> Callable[[], np.ndarray]:
    """A call that continues the prompts with GPT2LMHeadModel."""
    import torch  # noqa: TID251 - the other side, in an environment of its own
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_positions=TOTAL,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    tokens = torch.from_numpy(prompts())
    options = {"do_sample": True, "top_k": TOP_K, "max_new_tokens": NEW_TOKENS, "pad_token_id": 0}

    def write() -> np.ndarray:
        with torch.inference_mode():
            return model.generate(tokens, attention_mask=torch.ones_like(tokens), **options).numpy()

    return write


def check(output: np.ndarray, name: str) -> None:
    """Both sides did the work."""
    if output.shape != (BATCH, TOTAL) or (output < 0).any() or (output[:, :PROMPT] != prompts()).any():
        sys.exit(f"error: {name} gave {output.shape} instead of {NEW_TOKENS} tokens behind each of {BATCH} prompts")


def main(arguments: argparse.Namespace) -> None:
    """The command, or its other side."""
    work = {"other": "generate", "work": BATCH * NEW_TOKENS, "unit": "tokens"}
    contest(arguments, "generation_speed", heed, generate, check, **work)


if __name__ == "__main__":
    run(main, "generation_speed", __doc__)

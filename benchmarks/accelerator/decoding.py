"""GPT-2 of 124 M parameters continues prompts in bfloat16, sampling: tokens a second beside transformers' `generate`.

Random weights; no end marker ends anything. The floor is the time of reading all parameters once for each token, at the
rate of a large copy within the accelerator's memory.
"""

import functools
import types
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator.common import Figures, compared, fail_without_accelerator, options, other_side, seconds_of
from benchmarks.accelerator.work import BATCHES, GENERATED, PROMPT, ROWS, TOP_K
from research.data.tokenizer import Tokenizer
from research.models.gpt import GPT
from research.tasks.language_modeling import LanguageModeling
from research.training.inference import Inference, Precision

TURNS = 3


def copy_rate(tiny: bool) -> float:
    """Bytes a second, read and written, of a large copy."""
    values = jnp.ones((1 if tiny else 2**29,), jnp.float32)
    copy = jax.jit(lambda values: values + 1)
    return 2 * values.nbytes / min(seconds_of(lambda: copy(values), rounds=5))


def main() -> None:
    """The part."""
    arguments = options()
    fail_without_accelerator(arguments.tiny)
    figures = Figures(arguments.output)
    rate = copy_rate(arguments.tiny)
    figures.note(copy_gigabytes_a_second=round(rate / 1e9, 1))
    size = ROWS["gpt2"].tiny() if arguments.tiny else ROWS["gpt2"]
    total = PROMPT + GENERATED
    model = GPT(size.vocabulary, max_length=size.length + total, **size.fields)
    vocabulary: Any = types.SimpleNamespace(end_token=size.vocabulary)  # no token is
    task = LanguageModeling(Tokenizer("bpe", 8000), total, temperature=1.0, top_k=TOP_K, vocabulary=vocabulary)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))["params"]
    inference = Inference(model, task, Precision.parse("params=float32,compute=bfloat16"))
    other = other_side(arguments, "decoding")
    for batch in BATCHES:
        with figures.row(f"batch={batch}") as row:
            tokens = jax.random.randint(jax.random.key(1), (batch, total), 1, size.vocabulary)
            inputs = {"tokens": tokens, "prompt_length": jnp.full(batch, PROMPT, jnp.int32)}
            inputs["tokens"] = jnp.where(jnp.arange(total) < PROMPT, tokens, -1)
            compiled = jax.jit(inference.predict).lower({"params": params}, inputs).compile()
            written = compiled({"params": params}, inputs)
            row["complete"] = bool((written >= 0).all())

            def turn(compiled=compiled, inputs=inputs) -> float:
                return seconds_of(lambda: compiled({"params": params}, inputs), 1, 1)[0]

            row.update(
                compared(
                    turn, other and functools.partial(other.turn, f"generate {batch}"), 1 if arguments.tiny else TURNS
                )
            )
            row["tokens_per_second"] = round(batch * GENERATED / row["seconds"], 1)
            weights = 2 * sum(leaf.size for leaf in jax.tree.leaves(params))
            row["of_floor"] = round(weights * GENERATED / rate / row["seconds"], 4)
    if other:
        other.close()


if __name__ == "__main__":
    main()

"""Sentences per second of beam search on this machine's CPU, beside Hugging Face's MarianMTModel on PyTorch.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch==2.13.0 transformers
    python -m benchmarks.decode_speed --torch-python=/tmp/torch/bin/python

Both sides have the shape of the multi30k-tiny Transformer with random weights, the same sources, beam 5 and batch 64,
float32, all cores, and an end marker too improbable to end anything: every sentence becomes 30 tokens. Each is warmed
up, then they take turns, so that what else the machine does falls on both. Ours is `Translation.predict` as evaluation
runs it, compiled; theirs is `generate`. PyTorch lives in an environment of its own.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np

from benchmarks.turns import contest, run

LAYERS, WIDTH, MLP_WIDTH, HEADS, VOCAB = 4, 128, 256, 4, 9_700
BATCH, BEAMS, NEW_TOKENS, LENGTH_PENALTY = 64, 5, 30, 0.6
BATCHES = 4
"""Translated in each turn, as a test set has many; the other side's threads come to rest only during the first."""
PAD, BOS, EOS = 0, 1, 2


def sources() -> np.ndarray:
    """Random sentences as long as Multi30k's (6 to 24 tokens, 14 on average): int64 [batch, 24], PAD at the end."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.normal(14, 4, BATCH).round(), 6, 24)
    lengths[0] = 24
    columns = np.arange(24)
    tokens = np.where(columns < lengths[:, None], generator.integers(4, VOCAB, (BATCH, 24)), PAD)
    return np.where(columns == lengths[:, None] - 1, EOS, tokens)


def heed() -> Callable[[], np.ndarray]:
    """A call that translates the sources with this project."""
    import jax
    import jax.numpy as jnp

    from research.data.tokenizer import Tokenizer
    from research.memory import keep_memory
    from research.models.seq2seq import Seq2Seq
    from research.tasks.translation import Translation

    class Vocabulary:
        vocab_size, start_token, end_token, pad = VOCAB, BOS, EOS, PAD

    keep_memory()
    model = Seq2Seq(VOCAB, num_layers=LAYERS, width=WIDTH, num_heads=HEADS, mlp_width=MLP_WIDTH)
    batch = {"source": jnp.asarray(sources(), jnp.int32)}
    task = Translation(
        Tokenizer("word"),
        beam_size=BEAMS,
        length_penalty=LENGTH_PENALTY,
        extra_length=NEW_TOKENS - batch["source"].shape[1],
        vocabulary=Vocabulary(),
    )
    params = jax.jit(model.init)(jax.random.key(0), *(batch["source"],) * 2, batch["source"] != PAD)["params"]
    # The first coordinate is 1 in every output and -10,000 in the end marker's vector, 0 in all others.
    norm = params["decoder"][f"layer_{LAYERS - 1}"]["feed_forward_norm"]
    norm["scale"], norm["bias"] = norm["scale"].at[0].set(0.0), norm["bias"].at[0].set(1.0)
    table = params["embedding"]["embedding"]
    params["embedding"]["embedding"] = table.at[:, 0].set(0.0).at[EOS, 0].set(-1e4)
    predict = jax.jit(lambda variables, batch: task.predict(model, variables, batch))
    return lambda: np.asarray(predict({"params": params}, batch))


def marian() -> Callable[[], np.ndarray]:
    """A call that translates the sources with MarianMTModel."""
    import torch  # noqa: TID251 - the other side, in an environment of its own
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.MarianConfig(
        vocab_size=VOCAB,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=MLP_WIDTH,
        decoder_ffn_dim=MLP_WIDTH,
        activation_function="relu",
        max_position_embeddings=128,
        scale_embedding=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        forced_eos_token_id=None,
    )
    torch.manual_seed(0)
    model = transformers.MarianMTModel(config).eval()
    model.final_logits_bias[0, EOS] = -1e4
    tokens = torch.from_numpy(sources())
    options = {"num_beams": BEAMS, "do_sample": False, "max_new_tokens": NEW_TOKENS, "length_penalty": LENGTH_PENALTY}

    def translate() -> np.ndarray:
        with torch.inference_mode():
            return model.generate(tokens, attention_mask=tokens != PAD, **options).numpy()

    return translate


def check(output: np.ndarray, name: str) -> None:
    """Both sides did the work: as many tokens as asked for after BOS, and no early end."""
    if output.shape != (BATCH, NEW_TOKENS + 1) or (output == EOS).any() or (output[0] == PAD).any():
        sys.exit(f"error: {name} gave {output.shape} instead of {NEW_TOKENS} tokens for each of {BATCH} sentences")


def main(arguments: argparse.Namespace) -> None:
    """The command, or its other side."""
    work = {"other": "MarianMTModel", "work": BATCHES * BATCH, "unit": "sentences"}
    contest(arguments, "decode_speed", heed, marian, check, times=BATCHES, **work)


if __name__ == "__main__":
    run(main, "decode_speed", __doc__)

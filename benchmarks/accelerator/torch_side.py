"""The other side of the benchmark, in an environment with torch, transformers and timm.

    python -m benchmarks.accelerator.torch_side gpt2

Each line on standard input is the work of a turn; the answer is the seconds it took.
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import timm
import torch  # noqa: TID251 - the other side, in an environment of its own
import torch.nn.functional as F  # noqa: TID251
import transformers

from benchmarks.accelerator.work import GENERATED, PROMPT, ROWS, TOP_K, Row
from benchmarks.turns import serve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS, CALLS = 5, 5
TIMM = {"vit_b16": "vit_base_patch16_224", "resnet50": "resnet50", "swin_t": "swin_tiny_patch4_window7_224"}


def seconds_of(call: Callable[[], Any], calls: int) -> float:
    """Of one call, with all its work on the device."""
    began = time.perf_counter()
    for _ in range(calls):
        call()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / calls


@functools.cache
def attention(mask: str, *shape: int) -> Callable[[], None]:
    """Attention and its gradients, at a batch, a length, heads and a head size."""
    batch, length, heads, size = shape
    options = {"device": DEVICE, "dtype": torch.bfloat16}
    arrays = [torch.randn(batch, heads, length, size, **options, requires_grad=True) for _ in range(3)]
    upstream = torch.randn(batch, heads, length, size, **options)

    def call() -> None:
        F.scaled_dot_product_attention(*arrays, is_causal=mask == "causal").backward(upstream)
        for array in arrays:
            array.grad = None

    call()
    return call


def loss_of(name: str, row: Row) -> tuple[torch.nn.Module, Callable[[torch.nn.Module], torch.Tensor]]:
    """A model, and its loss on a random batch."""
    if row.kind in ("gpt", "bert"):
        sizes = {"vocab_size": row.vocabulary, "attn_implementation": "sdpa"}
        tokens = torch.randint(1, row.vocabulary, (row.batch, row.length), device=DEVICE)
        if row.kind == "gpt":
            fields = {"n_layer": row.fields["num_layers"], "n_embd": row.fields["width"]}
            dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
            config = transformers.GPT2Config(
                **sizes, **fields, **dropout, n_head=row.fields["num_heads"], n_positions=row.length, use_cache=False
            )
            model = transformers.GPT2LMHeadModel(config)
            return model, lambda model: model(tokens, labels=tokens).loss
        config = transformers.BertConfig(
            **sizes,
            num_hidden_layers=row.fields["num_layers"],
            hidden_size=row.fields["width"],
            num_attention_heads=row.fields["num_heads"],
            intermediate_size=row.fields["mlp_width"],
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        labels = torch.full_like(tokens, -100)
        labels[:, : row.length * 15 // 100 * 6 : 6] = 1
        return transformers.BertForMaskedLM(config), lambda model: model(tokens, labels=labels).loss
    images = torch.randn(row.batch, 3, row.side, row.side, device=DEVICE)
    if row.kind == "resnet":
        images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(row.batch, device=DEVICE) % row.classes
    size = {} if row.kind == "resnet" else {"img_size": row.side}
    return timm.create_model(TIMM[name], num_classes=row.classes, **size), lambda model: F.cross_entropy(
        model(images), labels
    )


def training(name: str, row: Row) -> Callable[[], None]:
    """A training step, compiled."""
    torch.set_float32_matmul_precision("high")
    model, loss = loss_of(name, row)
    model = model.to(DEVICE).train()
    if row.kind == "resnet":
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=DEVICE == "cuda")
    compiled = torch.compile(model)

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16):
            value = loss(compiled)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    return step


def decoding(row: Row) -> Callable[[int], None]:
    """Sampled continuations of a batch of prompts by `generate`."""
    transformers.logging.set_verbosity_error()
    sizes = {"n_layer": row.fields["num_layers"], "n_embd": row.fields["width"], "n_head": row.fields["num_heads"]}
    config = transformers.GPT2Config(vocab_size=row.vocabulary, n_positions=row.length + PROMPT + GENERATED, **sizes)
    model = transformers.GPT2LMHeadModel(config).to(DEVICE, torch.bfloat16).eval()
    options = {
        "do_sample": True,
        "top_k": TOP_K,
        "min_new_tokens": GENERATED,
        "max_new_tokens": GENERATED,
        "pad_token_id": 0,
    }

    def generate(batch: int) -> None:
        tokens = torch.randint(1, row.vocabulary, (batch, PROMPT), device=DEVICE)
        with torch.inference_mode():
            model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)

    return generate


def main() -> None:
    """Makes what the first argument names and takes turns at it."""
    name, tiny = sys.argv[1], "--tiny" in sys.argv
    row = ROWS.get(name, ROWS["gpt2"])
    row = row.tiny() if tiny else row
    if name == "attention":

        def turn(work: str) -> float:
            mask, *shape = work.split()
            return seconds_of(attention(mask, *map(int, shape)), CALLS)
    elif name == "decoding":
        generate = decoding(row)

        def turn(work: str) -> float:
            return seconds_of(functools.partial(generate, int(work.split()[1])), 1)
    else:
        step = training(name, row)

        def turn(work: str) -> float:
            return seconds_of(step, STEPS)

    serve(turn)


if __name__ == "__main__":
    main()

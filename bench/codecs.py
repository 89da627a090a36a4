"""The codec table: bytes stored / raw and GB/s by one thread, for Seawall's encodings, zstd level 3 and ZipNN.

Usage: codecs.py TENSOR_RATIO OLD.safetensors NEW.safetensors

TENSOR_RATIO is the example of that name (cargo build --release --example tensor_ratio). It prints Seawall's and zstd's rows, alone and against
the same stretch of the older file. ZipNN has no bases in this form, so it is measured alone, tensor by tensor as it is meant to
be used, in one thread, by the thread's processor time; what it gives back is compared. Its decoder seems to work in threads of its own, whose time
is not counted: its GB/s out is not to be compared.
"""

import json
import subprocess
import sys
import time
from unittest import mock

# ZipNN imports torch for tensors as input; bytes, which it is given here, need none, and torch is large.
for name in ("torch", "torch.nn", "torch.nn.functional"):
    sys.modules.setdefault(name, mock.MagicMock())

from zipnn import ZipNN  # noqa: E402

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def tensors(path):
    """Name, kind and bytes of each tensor of a safetensors file."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        data = file.read()
    for name, tensor in header.items():
        if name != "__metadata__":
            start, end = tensor["data_offsets"]
            yield name, tensor["dtype"], data[start:end]


def zipnn_rows(path):
    """By class of tensor: raw bytes, stored bytes, seconds in, seconds out."""
    rows = {}
    for name, dtype, plain in tensors(path):
        if dtype not in DTYPES:
            continue
        codec = ZipNN(input_format="byte", bytearray_dtype=DTYPES[dtype], threads=1)
        begun = time.thread_time()
        packed = codec.compress(bytearray(plain))
        encoded = time.thread_time()
        back = codec.decompress(packed)
        decoded = time.thread_time()
        if bytes(back) != plain:
            sys.exit(f"zipnn gave {name} back changed")
        group = name.split(".")[0] if "adam_" in name else "weights"
        for key in (group, "all"):
            row = rows.setdefault(key, [0, 0, 0.0, 0.0])
            for place, value in enumerate((len(plain), len(packed), encoded - begun, decoded - encoded)):
                row[place] += value
    return rows


def main():
    program, old, new = sys.argv[1:]
    print(subprocess.run([program, old, new], check=True, capture_output=True, text=True).stdout, end="")
    for group, (raw, stored, into, out) in sorted(zipnn_rows(new).items()):
        rates = [raw / 1e9 / max(seconds, 1e-9) for seconds in (into, out)]
        print(f"{group:<10} {'zipnn':<9} {raw / 1e6:>8.1f} {stored / raw:>11.4f} {rates[0]:>8.3f} {rates[1]:>9.3f}")


if __name__ == "__main__":
    main()

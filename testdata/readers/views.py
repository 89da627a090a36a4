#!/usr/bin/env python3
"""Makes the files in views/ with torch itself: tensors that are transposed, have holes, or share their numbers.

    pip install torch safetensors numpy
    python3 testdata/readers/views.py

Each `NAME.expected` is the safetensors file that the library writes of the same tensors after torch put their numbers in order:
what `restore --tensor '*'` has to give.
"""

import shutil
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed.checkpoint

HERE = Path(__file__).parent / "views"


def numbers(*shape, dtype=torch.float32):
    return torch.randint(0, 250, shape).to(dtype)


def model():
    """Views as models and optimizers have them."""
    tied = numbers(24, 10)
    storage = numbers(600)
    same = numbers(6, 4, dtype=torch.float16)
    channels = numbers(2, 6, 3, 5, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    fused = numbers(9, 8)
    return {
        "embed.weight": tied,
        "head.weight": tied.detach(),
        "head.transposed": tied.t(),
        "rows.one": storage[100:340].view(12, 20),
        "rows.two": storage[300:420].view(6, 20),
        "rows.inner": storage[110:130],
        "holes": storage.view(30, 20)[3:20:2, 5:11],
        "conv": channels,
        "turned": numbers(3, 4, 5, dtype=torch.int64).permute(2, 0, 1),
        "query": fused[:, :3],
        "key": fused[:, 3:6],
        "value": fused[:, 6:],
        "expanded": numbers(1, 7).expand(4, 7),
        "same": same,
        "again": {"same": same, "parameter": torch.nn.Parameter(same.t())},
        "flags": (numbers(5, 6) > 100).t(),
        "scalar": numbers(1)[0],
    }


def flat(state, prefix=""):
    for key, value in state.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def expect(name, state):
    tensors = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in flat(state)}
    (HERE / f"{name}.expected").write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))


def main():
    torch.manual_seed(20)
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    state = model()
    torch.save(state, HERE / "model.pt")
    expect("model.pt", state)
    # Distributed checkpoints keep each tensor by itself, in the order in which it lies.
    parts = {key: value for key, value in flat(state) if key in ("embed.weight", "head.weight", "head.transposed", "conv", "holes", "turned")}
    torch.distributed.checkpoint.save(parts, checkpoint_id=HERE / "step", no_dist=True)
    expect("step", parts)


main()

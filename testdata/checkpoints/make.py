#!/usr/bin/env python3
"""Makes the checkpoints below this folder with torch's own torch.distributed.checkpoint, one folder for each way to save.

    pip install torch numpy safetensors zstandard
    python3 testdata/checkpoints/make.py

ranks: two processes, a tensor in shards, several small tensors in each file. asynchronous: async_save of one process.
no_dist: without a process group. safetensors: that serialization format. extension: pieces written as zstd
streams. Files named `.metadata` are kept as `metadata`.
"""

import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as multiprocessing
from torch.distributed.checkpoint._extension import ZStandard
from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

HERE = Path(__file__).parent


def state(weight):
    torch.manual_seed(20)
    small = {f"small.{number}": torch.randn(3 + number) for number in range(3)}
    return {"weight": weight, **small, "step": 100}


def in_group(rank, size, act):
    dist.init_process_group("gloo", init_method=f"file://{HERE}/rendezvous", rank=rank, world_size=size)
    act()
    dist.destroy_process_group()


def ranks():
    torch.manual_seed(10)
    weight = distribute_tensor(torch.randn(6, 8), init_device_mesh("cpu", (2,)), [Shard(0)])
    dcp.save(state(weight), checkpoint_id=HERE / "ranks")


def asynchronous():
    dcp.async_save(state(torch.randn(6, 8)), checkpoint_id=HERE / "asynchronous").result()


def alone(name, **writer):
    dcp.save(state(torch.randn(6, 8)), storage_writer=FileSystemWriter(HERE / name, **writer), no_dist=True)


def main():
    names = ["ranks", "asynchronous", "no_dist", "safetensors", "extension"]
    for name in names:
        shutil.rmtree(HERE / name, ignore_errors=True)
    for size, act in [(2, ranks), (1, asynchronous)]:
        multiprocessing.spawn(in_group, (size, act), size)
        (HERE / "rendezvous").unlink(missing_ok=True)
    alone("no_dist")
    alone("safetensors", serialization_format=SerializationFormat.SAFETENSORS)
    alone("extension", _extensions=[ZStandard()])
    for name in names:
        (HERE / name / ".metadata").rename(HERE / name / "metadata")


if __name__ == "__main__":
    main()

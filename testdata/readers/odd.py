#!/usr/bin/env python3
"""Makes the files in odd/: numbers that lie where they do not look like it, or that are no tensor though they look like one.

    pip install numpy onnx pyarrow safetensors        (and GNU tar)
    python3 testdata/readers/odd.py

expected.json there is as make.py's, with the view of each tensor, and with its own numbers as `restore --tensor` has to give them: as hexadecimal
digits in the order of its own shape. A tensor without them is refused.
"""

import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
import types
from pathlib import Path

import numpy
import onnx
import pyarrow
import safetensors.numpy

HERE = Path(__file__).parent / "odd"
RANDOM = numpy.random.default_rng(21)
EXPECTED = {}


def expect(name, format, tensors=(), **more):
    """Tensors: name, dtype, shape as it lies, view, bytes as they lie, the array that the program sees or none."""
    content = (HERE / name).read_bytes()
    assert len(content) <= 20480, (name, len(content))
    rows = []
    for tensor, dtype, shape, view, data, own in tensors:
        assert content.count(data) == 1, (name, tensor)
        begin = content.index(data)
        row = {"name": tensor, "dtype": dtype, "shape": list(shape), "view": view, "range": [begin, begin + len(data)]}
        if own is not None:
            row["own"] = {"shape": list(own.shape), "numbers": numpy.ascontiguousarray(own).tobytes().hex()}
        rows.append(row)
    rows.sort(key=lambda row: row["range"])
    EXPECTED[name] = {"format": format, "tensors": rows, **more}


def npy(value):
    file = io.BytesIO()
    numpy.save(file, value)
    return file.getvalue()


def make_members():
    """A tar with Fortran's order in it, and a zip with names that end twice alike."""
    fortran = numpy.asfortranarray(RANDOM.standard_normal((3, 4)).astype("<f4"))
    plain = RANDOM.standard_normal((2, 5)).astype("<f4")
    with tarfile.open(HERE / "fortran.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for member, value in (("a.npy", fortran), ("b.npy", plain)):
            content = npy(value)
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    expect("fortran.tar", "Tar", [("a.npy", "f32", (4, 3), "Turned", fortran.tobytes("A"), fortran),
                                  ("b.npy", "f32", (2, 5), "Own", plain.tobytes(), plain)])
    values = {"x": plain, "x.npy": plain + 1}
    numpy.savez(HERE / "twice.npz", **values)
    expect("twice.npz", "Npz", [(name, "f32", (2, 5), "Own", value.tobytes(), value) for name, value in values.items()], checks=2)


def make_sparse():
    """Archives of GNU tar with a file of 24 tensors that are mostly zeros, and a hole behind them; and one more file."""
    tensors = {f"t{number:02}": numpy.zeros(512, "<f4") for number in range(24)}
    for value in tensors.values():
        value[:8] = RANDOM.standard_normal(8)
    content, after = safetensors.numpy.save({**tensors, "zeros": numpy.zeros(16384, "<f4")}), RANDOM.standard_normal((4, 4)).astype("<f4")
    with tempfile.TemporaryDirectory() as place:
        with open(f"{place}/sparse.safetensors", "wb") as file:
            file.write(content.rstrip(b"\0"))
            file.truncate(len(content))
        Path(f"{place}/the/after.npy").parent.mkdir()
        Path(f"{place}/the/after.npy").write_bytes(npy(after))
        for name, options in [("gnu", ["--format=gnu"]), *((f"pax{version}", ["--format=pax", f"--sparse-version={version}"]) for version in ("0.0", "0.1", "1.0"))]:
            made = f"{place}/{name}.tar"
            subprocess.run(["tar", "-cSf", made, "--hole-detection=raw", "-b", "1", "--owner=0", "--group=0", "--numeric-owner",
                            "--mtime=@0", *options, "-C", place, "sparse.safetensors", "the/after.npy"], check=True)
            whole = Path(made).read_bytes()
            with tarfile.open(made) as archive:
                members = archive.getmembers()
                assert members[0].issparse() and archive.extractfile(members[0]).read() == content
                # Version 1.0 has the map before the content, as text.
                first, count = members[0].sparse[0], len(members[0].sparse)
                begin = whole.index(b"%d\n%d\n%d\n" % (count, *first)) if name == "pax1.0" else members[0].offset_data
                cuts = [begin, members[1].offset, members[1].offset_data]
            (HERE / f"sparse-{name}.tar").write_bytes(whole)
            expect(f"sparse-{name}.tar", "Tar", [("the/after.npy", "f32", (4, 4), "Own", after.tobytes(), after)], boundaries=sorted(cuts))


def make_onnx():
    proto = onnx.TensorProto
    values, places = RANDOM.standard_normal(6).astype("<f4"), numpy.sort(RANDOM.permutation(40)[:6]).astype("<i8")
    sparse = onnx.helper.make_sparse_tensor(onnx.helper.make_tensor("sparse", proto.FLOAT, [6], values.tobytes(), raw=True),
                                            onnx.helper.make_tensor("places", proto.INT64, [6], places.tobytes(), raw=True), [5, 8])
    rows = [("sparse", "f32", (6,), "Rest", values.tobytes(), None), ("places", "i64", (6,), "Rest", places.tobytes(), None)]
    plain = RANDOM.standard_normal((2, 3)).astype("<f4")
    tensors = [onnx.helper.make_tensor("plain", proto.FLOAT, [2, 3], plain.tobytes(), raw=True)]
    rows.append(("plain", "f32", (2, 3), "Own", plain.tobytes(), plain))
    for name, dtype, kind in [("u4", "u4", proto.UINT4), ("i4", "i4", proto.INT4), ("f4", "f4", proto.FLOAT4E2M1)]:
        for shape in [(5, 7), (5, 6)]:
            count = shape[0] * shape[1]
            data = RANDOM.bytes((count + 1) // 2)
            made = proto(name=f"{name}.{count}", data_type=kind, raw_data=data, dims=shape)
            tensors.append(made)
            own = numpy.frombuffer(data, "uint8") if dtype == "f4" and count % 2 == 0 else None
            rows.append((made.name, dtype, (count + 1,) if count % 2 else shape, "Span" if count % 2 else "Own", data, own))
    graph = onnx.helper.make_graph([], "graph", [], [], tensors, sparse_initializer=[sparse])
    (HERE / "odd.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    expect("odd.onnx", "Onnx", rows)
    for row in EXPECTED["odd.onnx"]["tensors"]:
        if "own" in row and row["dtype"] == "f4":
            row["own"]["shape"] = row["shape"]


def make_nulls():
    """Two batches: the first has empty places, the second none. What lies under those are NaNs."""
    count, rows, batches = 16, [], []
    for number in range(2):
        holes = numpy.zeros(count, bool)
        holes[3::5] = number == 0
        values = {name: RANDOM.standard_normal(count) for name in ("full", "empty", "inner")}
        lists = RANDOM.standard_normal(4 * count).astype("<f4")
        values["empty"][holes] = numpy.nan
        values["inner"][holes] = numpy.nan
        mask = None if number else pyarrow.array(~holes).buffers()[1]
        wrap = lambda kind, children, buffers=(): pyarrow.Array.from_buffers(kind, count, [mask, *buffers], children=children)
        column = lambda name: pyarrow.array(values[name])
        empty = pyarrow.Array.from_buffers(pyarrow.float64(), count, [mask, pyarrow.py_buffer(values["empty"].tobytes())])
        pair = wrap(pyarrow.struct([("inner", pyarrow.float64())]), [column("inner")])
        fixed = wrap(pyarrow.list_(pyarrow.float32(), 4), [pyarrow.array(lists)])
        nothing = pyarrow.nulls(count)
        batches.append(pyarrow.record_batch([empty, nothing, pair, fixed, column("full")], ["empty", "nothing", "pair", "fixed", "full"]))
        for name, dtype, value in [("empty", "f64", values["empty"]), ("pair.inner", "f64", values["inner"]), ("fixed.item", "f32", lists), ("full", "f64", values["full"])]:
            whole = name == "full" or number == 1
            rows.append((f"{name}/{number}", dtype, value.shape, "Own" if whole else "Rest", value.tobytes(), value if whole else None))
    with pyarrow.ipc.new_file(str(HERE / "nulls.arrow"), batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    expect("nulls.arrow", "Arrow", rows)


def make_empty():
    """A distributed checkpoint in which some ranks have pieces without elements: at the end, and at the place of another piece."""
    names = {"metadata": ["Metadata", "MetadataIndex", "TensorStorageMetadata", "ChunkStorageMetadata"], "filesystem": ["_StorageInfo"]}
    kinds = {}
    for module, classes in names.items():
        made = types.ModuleType(f"torch.distributed.checkpoint.{module}")
        for name in classes:
            kinds[name] = type(name, (), {"__module__": made.__name__})
            setattr(made, name, kinds[name])
        sys.modules[made.__name__] = made
    torch = sys.modules["torch"] = types.ModuleType("torch")
    size = torch.Size = type("Size", (tuple,), {"__module__": "torch", "__reduce__": lambda self: (torch.Size, (tuple(self),))})

    def filled(kind, **fields):
        made = kinds[kind]()
        vars(made).update(fields)
        return made

    rows, alone, tail = array((4, 3)), array((5,)), array((4,))
    # Of each tensor the pieces: rank, offset, content, whether it is stored under an own index.
    wholes = {
        "rows": (rows, [(0, (0, 0), rows[:2], True), (1, (2, 0), rows[2:2], True), (2, (2, 0), rows[2:], True), (1, (4, 0), rows[4:], True)]),
        # What was written first under a place gives the index, and what was written last gives where it lies.
        "alone": (alone, [(1, (0,), alone[:0], False), (0, (0,), alone, True)]),
        "tail": (tail, [(0, (0,), tail, True), (1, (4,), tail[4:], False), (2, (4,), tail[4:], True)]),
    }
    (HERE / "empty").mkdir()
    files = [b"", b"", b""]
    tensors, stored = {}, {}
    for name, (whole, pieces) in wholes.items():
        chunks, first = [], {}
        for number, (rank, offset, piece, is_own) in enumerate(pieces):
            chunks.append(filled("ChunkStorageMetadata", offsets=size(offset), sizes=size(piece.shape)))
            number = first.pop(offset, number)
            # Each piece is a safetensors file of its own, one behind the other.
            begin, content = len(files[rank]), safetensors.numpy.save({name: piece})
            files[rank] += content
            if not is_own:
                first[offset] = number
                continue
            index = filled("MetadataIndex", fqn=name, offset=size(offset), index=number)
            stored[index] = filled("_StorageInfo", relative_path=f"__{rank}_0.distcp", offset=begin, length=len(content))
        tensors[name] = filled("TensorStorageMetadata", size=size(whole.shape), chunks=chunks)
    for rank, content in enumerate(files):
        (HERE / f"empty/__{rank}_0.distcp").write_bytes(content)
    metadata = filled("Metadata", state_dict_metadata=tensors, planner_data={}, storage_data=stored)
    (HERE / "empty/.metadata").write_bytes(pickle.dumps(metadata, 2))
    (HERE / "empty/expected").write_bytes(safetensors.numpy.save({name: whole for name, (whole, _) in wholes.items()}))


def array(shape):
    return RANDOM.standard_normal(shape).astype("<f4")


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    for make in [make_members, make_sparse, make_onnx, make_nulls, make_empty]:
        make()
    (HERE / "expected.json").write_text(json.dumps(EXPECTED, indent=1, sort_keys=True) + "\n")


main()

#!/usr/bin/env python3
"""Makes the files here that the tests of the engine's readers read, and expected.json, which says what is in them.

    pip install numpy ml_dtypes safetensors gguf onnx pyarrow tensorstore
    python3 testdata/readers/make.py

Where a small library writes a format, that library wrote the file. Torch is too large: its files are written with stub
classes of the same names, in the layout that torch documents. Where a tensor lies is found by searching the file for its
bytes, which are random, so expected.json owes nothing to any reader's arithmetic.
"""

import collections
import io
import json
import pickle
import shutil
import struct
import sys
import tarfile
import types
import zipfile
import zlib
from pathlib import Path

import gguf
import ml_dtypes
import numpy
import onnx
import onnx.external_data_helper
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import safetensors
import safetensors.numpy
import tensorstore

HERE = Path(__file__).parent
RANDOM = numpy.random.default_rng(20)
EXPECTED = {}


def noise(length):
    return RANDOM.bytes(length)


def array(shape, kind):
    """Random bytes as an array of that kind."""
    kind = numpy.dtype(kind)
    count = int(numpy.prod(shape))
    if kind == numpy.bool_:
        return RANDOM.integers(0, 2, shape).astype(bool)
    return numpy.frombuffer(noise(count * kind.itemsize), kind).reshape(shape)


def expect(name, format, tensors=(), **more):
    """Tensors: name, dtype, shape, bytes. Each must be in the file exactly once."""
    content = (HERE / name).read_bytes()
    rows = []
    for tensor, dtype, shape, data in tensors:
        assert content.count(data) == 1, (name, tensor)
        begin = content.index(data)
        rows.append({"name": tensor, "dtype": dtype, "shape": list(shape), "range": [begin, begin + len(data)]})
    rows.sort(key=lambda row: row["range"])
    assert len(content) < 16384, (name, len(content))
    EXPECTED[name] = {"format": format, "tensors": rows, **more}


def make_safetensors():
    kinds = {"F32": "float32", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "I64": "int64", "U8": "uint8"}
    tensors = {f"layer.{kind.lower()}": (kind, (5, 8), array((5, 8), getattr(ml_dtypes, name, None) or name))
               for kind, name in kinds.items()}
    tensors["scalar"] = ("F32", (), array((), "float32"))
    tensors["empty"] = ("F16", (0, 4), array((0, 4), "float16"))
    given = {name: safetensors.TensorSpec(dtype=array.dtype.name, shape=list(shape), data_ptr=array.ctypes.data, data_len=array.nbytes)
             for name, (kind, shape, array) in tensors.items()}
    content = safetensors.serialize(given, {"format": "pt", "note": "a \"quoted\" \u00e9"})
    (HERE / "model.safetensors").write_bytes(content)
    expect("model.safetensors", "Safetensors",
           [(name, kind.lower(), shape, array.tobytes()) for name, (kind, shape, array) in tensors.items() if array.size])
    one = {"part": array((4, 16), "float32")}
    two = {"part": array((3, 16), "float32"), "other": array((7,), "int16")}
    pieces = [safetensors.numpy.save(one), safetensors.numpy.save(two)]
    (HERE / "safetensors.distcp").write_bytes(b"".join(pieces))
    names = {"float32": "f32", "int16": "i16"}
    expect("safetensors.distcp", "Distcp",
           [(name, names[value.dtype.name], value.shape, value.tobytes()) for piece in (one, two) for name, value in piece.items()],
           boundaries=[len(pieces[0])])


# Stubs of torch's names, for its pickles.

def module(name, **members):
    made = types.ModuleType(name)
    for key, value in members.items():
        if isinstance(value, type) or callable(value):
            value.__module__, value.__qualname__, value.__name__ = name, key, key
        setattr(made, key, value)
    sys.modules[name] = made
    return made


def stub(name):
    def function(*arguments):
        raise AssertionError("never called")
    return function


class Dtype:
    __module__ = "torch"

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return self.name


CLASSES = {"float32": "FloatStorage", "bfloat16": "BFloat16Storage", "float16": "HalfStorage", "int64": "LongStorage", "int8": "CharStorage",
           "complex64": "ComplexFloatStorage"}
TORCH = module("torch", **{name: type(name, (), {}) for name in [*CLASSES.values(), "UntypedStorage"]})
TORCH.float8_e5m2 = Dtype("float8_e5m2")
TORCH.uint16 = Dtype("uint16")
UTILS = module("torch._utils", **{name: stub(name) for name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter")})
SUBCLASS = module("torch._tensor", _rebuild_from_type_v2=stub("_rebuild_from_type_v2"))
SIZE = module("torch", Size=type("Size", (tuple,), {"__reduce__": lambda self: (sys.modules["torch"].Size, (tuple(self),))}))
for key, value in vars(TORCH).items():
    if not key.startswith("__"):
        setattr(SIZE, key, value)


class Storage:
    def __init__(self, data, kind, untyped=False):
        self.data, self.untyped = data, untyped
        self.kind = getattr(SIZE, "UntypedStorage" if untyped else CLASSES[kind])
        self.count = len(data) if untyped else len(data) // numpy.dtype(getattr(ml_dtypes, kind, None) or kind).itemsize


class Tensor:
    """A view of a storage."""

    def __init__(self, storage, offset, shape, strides, dtype=None, parameter=False, subclass=False):
        self.view = (storage, offset, tuple(shape), tuple(strides), False, collections.OrderedDict())
        self.dtype, self.parameter, self.subclass = dtype, parameter, subclass

    def __reduce_ex__(self, protocol):
        if self.parameter:
            return UTILS._rebuild_parameter, (Tensor(*self.view[:4]), True, collections.OrderedDict())
        if self.subclass:
            return SUBCLASS._rebuild_from_type_v2, (UTILS._rebuild_tensor_v2, Foreign, self.view, {})
        if self.dtype is not None:
            return UTILS._rebuild_tensor_v3, (*self.view, self.dtype, None)
        return UTILS._rebuild_tensor_v2, self.view


class Foreign:
    """Some class of the program that saved: a name that means nothing to a reader."""
    __module__ = "program"


module("program", Foreign=Foreign)


def contiguous(shape):
    strides, step = [], 1
    for length in reversed(shape):
        strides.insert(0, step)
        step *= length
    return strides


def torch_save(value, stem, order="little", protocol=2):
    """torch.save's zip: stored members, contents at multiples of 64 through padding that only local headers have."""
    storages, text = [], io.BytesIO()
    pickler = pickle.Pickler(text, protocol)
    pickler_class = type("Pickler", (pickle._Pickler,), {})

    def persistent_id(self, item):
        if not isinstance(item, Storage):
            return None
        if item not in storages:
            storages.append(item)
        return ("storage", item.kind, str(storages.index(item)), "cpu", item.count)

    pickler_class.persistent_id = persistent_id
    text = io.BytesIO()
    pickler_class(text, protocol).dump(value)
    members = [("data.pkl", text.getvalue()), ("byteorder", order.encode())]
    members += [(f"data/{number}", storage.data) for number, storage in enumerate(storages)]
    members += [("version", b"3\n"), (".data/serialization_id", b"0" * 40)]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        infos = []
        for name, content in members:
            info = zipfile.ZipInfo(f"{stem}/{name}", (1980, 1, 1, 0, 0, 0))
            start = file.tell() + 30 + len(info.filename)
            padding = -(start + 4) % 64
            info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            archive.writestr(info, content)
            infos.append(info)
        for info in infos:
            info.extra = b""
    return file.getvalue()


def make_torch():
    weight, half = Storage(noise(6 * 8 * 4), "float32"), Storage(noise(40), "bfloat16")
    flat, eight = Storage(noise(30 * 4), "float32"), Storage(noise(64), "uint8", untyped=True)
    moment = [Storage(noise(48), "float32") for _ in range(2)]
    wide = Storage(noise(32), "uint8", untyped=True)
    script = Storage(noise(64), "int8")
    module_like = Foreign()
    module_like.inner = {"buffer": Tensor(script, 0, (64,), (1,))}
    model = collections.OrderedDict()
    model["encoder.weight"] = Tensor(weight, 0, (6, 8), (8, 1), parameter=True)
    model["tied.weight"] = Tensor(weight, 0, (6, 8), (8, 1))
    model["transposed"] = Tensor(half, 0, (4, 5), (1, 4), subclass=True)
    model["float8"] = Tensor(eight, 0, (8, 8), (8, 1), dtype=SIZE.float8_e5m2)
    model["wide"] = Tensor(wide, 4, (12,), (1,), dtype=SIZE.uint16)
    model["flat.first"] = Tensor(flat, 2, (3, 4), (4, 1))
    model["flat.second"] = Tensor(flat, 14, (6,), (1,))
    model["flat.inside"] = Tensor(flat, 15, (3,), (1,))
    state = {"model": model, "module": module_like, "step": 12, "args": {"lr": 1e-4, "name": "x" * 5000, "big": 1 << 80},
             "optimizer": {"state": {7: {"step": 3, "exp_avg": Tensor(moment[0], 0, (12,), (1,)),
                                         "exp_avg_sq": Tensor(moment[1], 0, (3, 4), (4, 1))}},
                           "param_groups": [{"params": [7], "betas": (0.9, 0.999)}]}}
    state["self"] = state
    for name, protocol in [("model.pt", 2), ("protocol4.pt", 4)]:
        (HERE / name).write_bytes(torch_save(state, "archive", protocol=protocol))
        content, entries = (HERE / name).read_bytes(), zipfile.ZipFile(HERE / name).infolist()
        key = {id(storage): number for number, storage in enumerate([weight, half, eight, wide, flat])}
        rows = [
            ("model.encoder.weight", "f32", (6, 8), weight.data),
            ("model.transposed", "bf16", (5, 4), half.data),
            ("model.float8", "f8_e5m2", (8, 8), eight.data),
            ("model.wide", "u16", (12,), wide.data[8:]),
            (f"data/{key[id(wide)]}", "unknown", (8,), wide.data[:8]),
            (f"data/{key[id(flat)]}", "f32", (2,), flat.data[:8]),
            ("model.flat.first", "f32", (3, 4), flat.data[8:56]),
            ("model.flat.second", "f32", (6,), flat.data[56:80]),
            (f"data/{key[id(flat)]}", "f32", (10,), flat.data[80:]),
            ("module.inner.buffer", "i8", (64,), script.data),
            ("optimizer.state.7.exp_avg", "f32", (12,), moment[0].data),
            ("optimizer.state.7.exp_avg_sq", "f32", (3, 4), moment[1].data),
        ]
        assert all(zlib.crc32(archive_content(content, entry)) == entry.CRC for entry in entries)
        expect(name, "Torch", rows, checks=len(entries))
    big = {"a": Tensor(moment[0], 0, (12,), (1,)), "b": Tensor(script, 0, (8, 8), (8, 1))}
    (HERE / "big.pt").write_bytes(torch_save(big, "big", order="big"))
    expect("big.pt", "Torch", [("a", "width", (12,), moment[0].data), ("b", "i8", (8, 8), script.data)])


def archive_content(content, entry):
    name, extra = struct.unpack_from("<HH", content, entry.header_offset + 26)
    start = entry.header_offset + 30 + name + extra
    return content[start:start + entry.file_size]


def make_distcp():
    pieces = [(("layer.0.weight", (0, 0)), (4, 8)), (("layer.0.weight", (4, 0)), (2, 8)), (("layer.1.bias", (0,)), (10,))]
    file, rows, stored = b"", [], {}
    checkpoint = module("torch.distributed.checkpoint.metadata",
                        **{name: type(name, (), {}) for name in ("Metadata", "MetadataIndex")})
    filesystem = module("torch.distributed.checkpoint.filesystem", _StorageInfo=type("_StorageInfo", (), {}))

    def filled(kind, **fields):
        made = kind()
        vars(made).update(fields)
        return made

    expected = []
    for (name, offset), shape in pieces:
        data = noise(int(numpy.prod(shape)) * 4)
        piece = torch_save(Tensor(Storage(data, "float32"), 0, shape, contiguous(shape)), "archive")
        index = filled(checkpoint.MetadataIndex, fqn=name, offset=SIZE.Size(offset), index=0)
        stored[index] = filled(filesystem._StorageInfo, relative_path="__0_0.distcp", offset=len(file), length=len(piece))
        expected.append({"file": "__0_0.distcp", "range": [len(file), len(file) + len(piece)], "name": name, "offset": list(offset)})
        rows.append(("", "f32", shape, data))
        file += piece
    index = filled(checkpoint.MetadataIndex, fqn="step", offset=None, index=None)
    stored[index] = filled(filesystem._StorageInfo, relative_path="__1_0.distcp", offset=0, length=77)
    expected.append({"file": "__1_0.distcp", "range": [0, 77], "name": "step", "offset": []})
    (HERE / "__0_0.distcp").write_bytes(file)
    expect("__0_0.distcp", "Distcp", rows, boundaries=[piece["range"][0] for piece in expected[1:3]])
    metadata = filled(checkpoint.Metadata, state_dict_metadata={"step": Foreign()}, planner_data={}, storage_data=stored)
    (HERE / "checkpoint.metadata").write_bytes(pickle.dumps(metadata))
    EXPECTED["checkpoint.metadata"] = {"stored": expected}


def make_gguf():
    for name, alignment in [("model.gguf", None), ("aligned.gguf", 128)]:
        writer = gguf.GGUFWriter(HERE / name, "llama", endianess=gguf.GGUFEndian.LITTLE)
        if alignment:
            writer.add_custom_alignment(alignment)
        writer.add_string("general.name", "a small one")
        writer.add_array("tokenizer.ggml.tokens", ["one", "two", "\u00e9", ""])
        writer.add_array("tokenizer.ggml.scores", [1.0, 2.0, 3.0])
        writer.add_array("nested", [[1, 2], [3]])
        writer.add_bool("flag", True)
        rows = []
        for tensor, shape, kind in [("blk.0.attn.weight", (3, 7), "float32"), ("blk.0.norm", (9,), "float16")]:
            value = array(shape, kind)
            writer.add_tensor(tensor, value)
            rows.append((tensor, {"float32": "f32", "float16": "f16"}[kind], shape, value.tobytes()))
        for tensor, shape, kind in [("blk.1.q8", (2, 64), gguf.GGMLQuantizationType.Q8_0),
                                    ("blk.1.q4k", (2, 256), gguf.GGMLQuantizationType.Q4_K)]:
            elements, width = gguf.GGML_QUANT_SIZES[kind]
            value = array((shape[0], shape[1] // elements * width), "uint8")
            writer.add_tensor(tensor, value, raw_dtype=kind)
            rows.append((tensor, kind.name.lower(), shape, value.tobytes()))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        expect(name, "Gguf", rows)


def make_onnx():
    def tensor(name, shape, kind, onnx_kind):
        value = array(shape, kind)
        return value, onnx.helper.make_tensor(name, onnx_kind, shape, value.tobytes(), raw=True)

    proto = onnx.TensorProto
    weight, weight_proto = tensor("weight", (5, 6), "float32", proto.FLOAT)
    half, half_proto = tensor("half", (7,), "float16", proto.FLOAT16)
    branch, branch_proto = tensor("", (8,), "int64", proto.INT64)
    floats = RANDOM.standard_normal(9).astype("float32")
    floats_proto = onnx.helper.make_tensor("floats", proto.FLOAT, (3, 3), floats, raw=False)
    outside = onnx.helper.make_tensor("outside", proto.FLOAT, (4, 4), noise(64), raw=True)
    onnx.external_data_helper.set_external_data(outside, "weights.bin", offset=4096, length=64)
    outside.ClearField("raw_data")
    output = onnx.helper.make_tensor_value_info("y", proto.INT64, [8])
    inner = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["y"], value=branch_proto)], "inner", [], [output])
    choice = onnx.helper.make_node("If", ["condition"], ["z"], then_branch=inner, else_branch=inner)
    graph = onnx.helper.make_graph([choice], "graph", [], [output], [weight_proto, half_proto, floats_proto, outside])
    content = onnx.helper.make_model(graph).SerializeToString()
    # Both branches hold the same constant: the second one gets other bytes.
    data = branch.tobytes()
    at = content.rindex(data)
    second = noise(len(data))
    (HERE / "model.onnx").write_bytes(content[:at] + second + content[at + len(data):])
    expect("model.onnx", "Onnx",
           [("weight", "f32", (5, 6), weight.tobytes()), ("half", "f16", (7,), half.tobytes()), ("", "i64", (8,), data), ("", "i64", (8,), second),
            ("floats", "f32", (3, 3), floats.tobytes())])


def make_numpy():
    plain, fortran = array((5, 7), "<f4"), numpy.asfortranarray(array((4, 6), "<i2"))
    big, brain = array((9,), ">f8"), array((3, 5), ml_dtypes.bfloat16)
    record = array((6,), [("a", "<f4"), ("b", "<u2")])
    for name, value, dtype, shape in [("plain.npy", plain, "f32", (5, 7)), ("fortran.npy", fortran, "i16", (6, 4)), ("big.npy", big, "width", (9,)),
                                      ("brain.npy", brain, "width", (3, 5)), ("record.npy", record, "width", (6,))]:
        numpy.save(HERE / name, value)
        expect(name, "Npy", [("", dtype, shape, value.tobytes("A"))])
    numpy.savez(HERE / "arrays.npz", weights=plain, indexes=fortran)
    expect("arrays.npz", "Npz", [("weights", "f32", (5, 7), plain.tobytes()), ("indexes", "i16", (6, 4), fortran.tobytes("A"))], checks=2)
    numpy.savez_compressed(HERE / "compressed.npz", weights=plain)
    expect("compressed.npz", "Npz")


def make_tables():
    def batch(rows):
        columns = {
            "id": pyarrow.array(array((rows,), "int64")),
            "text": pyarrow.array([f"row {number}" for number in range(rows)]),
            "embedding": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(RANDOM.standard_normal(rows * 4).astype("float32")), 4),
            "label": pyarrow.array(["a", "b"] * (rows // 2)).dictionary_encode(),
            "flag": pyarrow.array([True, False] * (rows // 2)),
            "score": pyarrow.array(RANDOM.standard_normal(rows)),
            "tags": pyarrow.array(array((rows, 2), "int32").tolist(), pyarrow.list_(pyarrow.int32())),
            "pair": pyarrow.StructArray.from_arrays([pyarrow.array(array((rows,), "uint16"))], ["left"]),
        }
        return pyarrow.record_batch(list(columns.values()), list(columns))

    batches = [batch(16), batch(32)]
    rows = []
    for number, values in enumerate(batches):
        length = values.num_rows
        for name, column, dtype, count in [("id", values["id"], "i64", length), ("embedding.item", values["embedding"].values, "f32", 4 * length),
                                           ("score", values["score"], "f64", length), ("tags.item", values["tags"].values, "i32", 2 * length),
                                           ("pair.left", values["pair"].field(0), "u16", length)]:
            rows.append((f"{name}/{number}", dtype, (count,), column.to_numpy().tobytes()))
    table = pyarrow.Table.from_batches(batches)
    with pyarrow.ipc.new_file(str(HERE / "table.arrow"), table.schema) as writer:
        for values in batches:
            writer.write_batch(values)
    expect("table.arrow", "Arrow", rows)
    pyarrow.feather.write_feather(table.select(["id", "score"]), str(HERE / "compressed.feather"), compression="zstd")
    expect("compressed.feather", "Arrow")
    pyarrow.parquet.write_table(table, HERE / "table.parquet", row_group_size=24)
    footer = pyarrow.parquet.read_metadata(HERE / "table.parquet")
    cuts = set()
    for group in range(footer.num_row_groups):
        for column in range(footer.num_columns):
            chunk = footer.row_group(group).column(column)
            start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
            cuts |= {start, start + chunk.total_compressed_size}
    cuts.add((HERE / "table.parquet").stat().st_size - 8 - footer.serialized_size)
    expect("table.parquet", "Parquet", boundaries=sorted(cuts))


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def make_records():
    def masked(data):
        crc = crc32c(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    content, ranges = b"", []
    for length in (100, 0, 333):
        head, data = struct.pack("<Q", length), noise(length)
        start = len(content)
        content += head + masked(head) + data + masked(data)
        ranges.append([start, len(content)])
    (HERE / "records.tfrecord").write_bytes(content)
    expect("records.tfrecord", "TfRecord", records=ranges)


def make_tar():
    value, weights = array((6, 4), "<f4"), {"w": array((5,), "float32")}
    file = io.BytesIO()
    numpy.save(file, value)
    members = [("00001.jpg", noise(700)), ("folder/" + "long name " * 15 + ".npy", file.getvalue()), ("00002.safetensors", safetensors.numpy.save(weights)),
               ("00003.txt", b"")]
    for name, format in [("pax.tar", tarfile.PAX_FORMAT), ("gnu.tar", tarfile.GNU_FORMAT)]:
        with tarfile.open(HERE / name, "w", format=format) as archive:
            folder = tarfile.TarInfo("folder/")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for member, content in members:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        with tarfile.open(HERE / name) as archive:
            cuts = sorted({place for member in archive for place in (member.offset, member.offset_data)} - {0})
        expect(name, "Tar", [(members[1][0], "f32", (6, 4), value.tobytes()), ("00002.safetensors/w", "f32", (5,), weights["w"].tobytes())],
               boundaries=cuts)


def make_zip():
    with zipfile.ZipFile(HERE / "other.zip", "w") as archive:
        archive.comment = b"a comment"
        archive.writestr(zipfile.ZipInfo("stored.txt"), "stored")
        archive.writestr(zipfile.ZipInfo("deflated.txt"), "deflated " * 50, zipfile.ZIP_DEFLATED)
    expect("other.zip", "Zip", checks=1)


def make_ocdbt():
    """A store with values in the data file, each too long for the tree's node. It is not in expected.json: readers give it no layout."""
    place = HERE / "ocdbt"
    shutil.rmtree(place, ignore_errors=True)
    base = {"driver": "file", "path": f"{place}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base, "config": {"max_inline_value_bytes": 100}}).result()
    with tensorstore.Transaction() as transaction:
        for number in range(8):
            store.with_transaction(transaction)[f"value {number}"] = noise(400)


def main():
    for make in [make_safetensors, make_torch, make_distcp, make_gguf, make_onnx, make_numpy, make_tables, make_records, make_tar, make_zip,
                 make_ocdbt]:
        make()
    (HERE / "expected.json").write_text(json.dumps(EXPECTED, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()

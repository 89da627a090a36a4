"""Shows what a long history costs, and what many writers lose: opening and pruning a repository of many snapshots and
chunks, and eight backups at once.

Usage: scale.py SEAWALL DIRECTORY [history[:SNAPSHOTS:CHUNKS]] [writers[:MIB]]

`history` fills a repository with SNAPSHOTS (10,000) snapshots that together have CHUNKS (10,000,000) chunks, a tenth of the
snapshots with an index segment of its own, never pruned; needs the example `large_repository` beside SEAWALL
(cargo build --release --examples). `writers` stores eight sources of MIB (768) MiB of random bytes, by one writer and by
eight at once into one repository, three times in turn. Without a name both run. Removes what it made.
Exit code 1 if a figure is missed: opening with a warm cache under 1 s and 200 MiB, prune under 300 MiB, the median loss of
eight writers at most 15 %.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
WRITERS, ROUNDS = 8, 3


def seawall_at(seawall, place, cache="cache", repository="repository"):
    """The program with its options, for a repository below `place`."""
    paths = [os.path.join(place, name) for name in (repository, f"{repository}.key", cache)]
    return [seawall, "-r", paths[0], "--key-file", paths[1], "--cache-dir", paths[2]]


def quiet(command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(place, command):
    measured = subprocess.run(
        [sys.executable, os.path.join(HERE, "measure.py"), os.path.join(place, "log")] + command,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(measured.stdout)


def history(seawall, place, snapshots=10_000, chunks=10_000_000):
    make = os.path.join(os.path.dirname(seawall), "examples", "large_repository")
    base = seawall_at(seawall, place)
    quiet(base + ["init"])
    begun = time.monotonic()
    paths = [os.path.join(place, name) for name in ("repository", "repository.key", "maker")]
    quiet([make] + paths[:2] + [str(snapshots), str(chunks), paths[2]])
    shutil.rmtree(paths[2], ignore_errors=True)
    print(f"{snapshots:,} snapshots, {chunks:,} chunks, made in {time.monotonic() - begun:.0f} s\n")
    print("| act | wall | CPU | peak | |\n|---|---|---|---|---|")
    good = True

    def act(name, arguments, cache="cache", seconds=None, mebibytes=None):
        row = measure(place, seawall_at(seawall, place, cache) + arguments)
        within = row["exit"] == 0
        within = within and (seconds is None or row["wall_s"] < seconds)
        within = within and (mebibytes is None or row["peak_bytes"] < mebibytes << 20)
        print(
            f"| {name} | {row['wall_s']:.2f} s | {row['cpu_s']:.2f} s | {row['peak_bytes'] / 2**20:.0f} MiB |"
            f" {'' if within else 'MISSED' if row['exit'] == 0 else 'exit ' + str(row['exit'])} |",
            flush=True,
        )
        return within

    source = os.path.join(place, "source")
    os.makedirs(source)
    for number in range(2):
        with open(os.path.join(source, f"file {number}"), "wb") as file:
            file.write(os.urandom(100_000))
    good &= act("open (`snapshots`), no cache yet", ["snapshots"])
    good &= act("open (`snapshots`), warm cache", ["snapshots"], seconds=1, mebibytes=200)
    good &= act("backup of two files, no directory yet", ["backup", source])
    good &= act("backup of two files", ["backup", source])
    good &= act("open (`snapshots`), warm cache and directory", ["snapshots"], seconds=1, mebibytes=200)
    good &= act("verify (structure)", ["verify"])
    good &= act("prune --dry-run", ["prune", "--dry-run"], mebibytes=300)
    good &= act("forget the older half", ["forget", "--keep-last", str(snapshots // 2)])
    good &= act("prune --window 0", ["prune", "--window", "0", "--max-unused", "0"], mebibytes=300)
    good &= act("verify (structure)", ["verify"])
    return good


def writers(seawall, place, mebibytes=768):
    for number in range(WRITERS):
        os.makedirs(os.path.join(place, "source", str(number)))
        with open(os.path.join(place, "source", str(number), "data"), "wb") as file:
            for _ in range(mebibytes):
                file.write(os.urandom(1 << 20))
    sources = [os.path.join(place, "source", str(number)) for number in range(WRITERS)]
    losses = []
    print("| one writer | eight at once | loss |\n|---|---|---|")
    for turn in range(ROUNDS):
        times = {}
        # Each goes first in turn.
        for kind in ("one", "eight") if turn % 2 == 0 else ("eight", "one"):
            quiet(seawall_at(seawall, place, f"{kind} 0", kind) + ["init"])
            os.sync()
            for source in sources:
                quiet(["cat", os.path.join(source, "data")])
            begun = time.monotonic()
            if kind == "one":
                quiet(seawall_at(seawall, place, "one 0", "one") + ["backup"] + sources)
            else:
                commands = [
                    seawall_at(seawall, place, f"eight {number}", "eight") + ["backup", source]
                    for number, source in enumerate(sources)
                ]
                running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
                if any([process.wait() for process in running]):
                    sys.exit("a backup failed")
            times[kind] = time.monotonic() - begun
            for name in os.listdir(place):
                if name.startswith(kind):
                    path = os.path.join(place, name)
                    shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        rates = [WRITERS * mebibytes / times[kind] for kind in ("one", "eight")]
        losses.append(1 - rates[1] / rates[0])
        print(f"| {rates[0]:.0f} MiB/s | {rates[1]:.0f} MiB/s | {losses[-1]:.1%} |", flush=True)
    print(f"\nMedian loss: {statistics.median(losses):.1%}")
    return statistics.median(losses) <= 0.15


CASES = {"history": history, "writers": writers}


def main():
    names = sys.argv[3:] or list(CASES)
    if len(sys.argv) < 3 or any(name.split(":")[0] not in CASES for name in names):
        sys.exit(__doc__)
    seawall, directory = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    good = True
    for name in names:
        kind, *numbers = name.split(":")
        place = os.path.join(directory, f"scale-{kind}")
        shutil.rmtree(place, ignore_errors=True)
        os.makedirs(place)
        try:
            good = CASES[kind](seawall, place, *map(int, numbers)) and good
        finally:
            shutil.rmtree(place, ignore_errors=True)
    sys.exit(0 if good else 1)


main()

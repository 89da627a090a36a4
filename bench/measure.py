"""Runs one command and prints what it cost, as one JSON object: wall and CPU seconds, peak memory, exit code.

Usage: measure.py LOG COMMAND [ARGUMENT]...

CPU is user and system time of the command and everything it waited for; peak memory is the largest resident set among
them (wait4). What the command prints goes to LOG.
"""

import json
import os
import sys
import time

log, command = sys.argv[1], sys.argv[2:]
out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
null = os.open(os.devnull, os.O_RDONLY)
redirect = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, out, 2)]
begun = time.monotonic()
child = os.posix_spawnp(command[0], command, os.environ, file_actions=redirect)
_, status, used = os.wait4(child, 0)
wall = time.monotonic() - begun
print(json.dumps({
    "wall_s": round(wall, 4),
    "cpu_s": round(used.ru_utime + used.ru_stime, 4),
    "peak_bytes": used.ru_maxrss * 1024,
    "exit": os.waitstatus_to_exitcode(status),
}))

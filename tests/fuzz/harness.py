"""What the fuzz harnesses share: the loop of mutated seeds, where findings are kept, the choice of atheris.

Owns: `Harness`.  Must not know: what is fuzzed, what counts as a finding.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Harness:
    """`check` raises for a finding; `mutate` makes an input of seeds; `corpus`: the directory of the seeds and of what was found.

    An input that ends the process is left beside the corpus, in a file with the ending .running."""

    corpus: Path
    check: Callable[[bytes], None]
    mutate: Callable[[random.Random, list[bytes]], bytes]

    def keep(self, data: bytes) -> Path:
        path = self.corpus / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        return path

    def run(self, seconds: float, seed: int) -> int:
        """Mutates for `seconds`; returns how many inputs were tried. Raises on the first finding, after keeping it."""
        running = self.corpus.with_name(self.corpus.name + ".running")
        source = random.Random(seed)
        seeds = [path.read_bytes() for path in sorted(self.corpus.iterdir())]
        deadline = time.monotonic() + seconds
        tried = 0
        while time.monotonic() < deadline:
            data = self.mutate(source, seeds)
            running.write_bytes(data)
            try:
                self.check(data)
            except BaseException:
                print("kept", self.keep(data), file=sys.stderr)
                raise
            tried += 1
            if tried % 50 == 0 and len(seeds) < 5000:
                seeds.append(data)
        running.unlink(missing_ok=True)
        return tried

    def main(self) -> None:
        """The command line: [SECONDS] [SEED], or with atheris installed libFuzzer's arguments."""
        try:
            import atheris
        except ImportError:
            seconds, seed = (*map(int, sys.argv[1:]), *(30, 1)[len(sys.argv) - 1 :])
            print(f"{self.run(seconds, seed)} inputs, nothing found (seed {seed})")
            return
        atheris.Setup([*sys.argv, str(self.corpus)], self.check)
        atheris.Fuzz()

"""Op packages on demand: TensorFlow Serving links them in, here they are loaded when a graph asks for one of their ops.

Owns: the table of packages, how their libraries are found without importing them, which were loaded.  Must not know: models, servables.
Only the libraries that hold a missing op are loaded: all of tensorflow_text costs a quarter of a second and 100 MB.
"""

from __future__ import annotations

import importlib.util
import logging
import mmap
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tfs import op_linker
from tfs.errors import FailedPrecondition, NotFound, TfsError

_log = logging.getLogger(__name__)

_MISSING = re.compile(r"Op type not registered '([^']+)'")


@dataclass(frozen=True, slots=True)
class OpPackage:
    """module: what would be imported; pip: what is installed; libraries: globs below the module; ops: names and prefixes (`X*`)."""

    module: str
    pip: str
    libraries: tuple[str, ...]
    ops: tuple[str, ...]

    def has(self, op: str) -> bool:
        return any(op == known or (known.endswith("*") and op.startswith(known[:-1])) for known in self.ops)

    def files(self) -> Iterator[Path]:
        """Its libraries, in order; none when it is not installed."""
        spec = importlib.util.find_spec(self.module)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            for pattern in self.libraries:
                yield from sorted(Path(place).glob(pattern))


PACKAGES = (
    OpPackage(
        "tensorflow_text",
        "tensorflow-text",
        ("python/ops/*.so", "python/metrics/*.so"),
        (
            "TFText>*",
            "CaseFoldUTF8",
            "ConstrainedSequence",
            "FastBertNormalize",
            "FastWordpieceTokenizeWithOffsets",
            "FindSourceOffsets",
            "MaxSpanningTree",
            "NormalizeUTF8",
            "NormalizeUTF8WithOffsetsMap",
            "PhraseTokenize",
            "RegexSplitWithOffsets",
            "RougeL",
            "SentenceFragments",
            "SentenceFragmentsV2",
            "Sentencepiece*",
            "SplitMergeTokenizeWithOffsets",
            "TokenizerFromLogits",
            "UnicodeScriptTokenizeWithOffsets",
            "WhitespaceTokenizeWithOffsets",
            "WordpieceTokenizeWithOffsets",
        ),
    ),
    OpPackage(
        "tensorflow_decision_forests",
        "tensorflow-decision-forests",
        ("tensorflow/ops/inference/*.so",),
        ("SimpleML*",),
    ),
    OpPackage("tensorflow_addons", "tensorflow-addons", ("custom_ops/*/*.so",), ("Addons>*",)),
    OpPackage("tensorflow_io", "tensorflow-io", (), ("IO>*",)),
)


@dataclass
class OpPackages:
    """Loads what is missing, each library once in the life of the process.  Any thread."""

    packages: tuple[OpPackage, ...] = PACKAGES
    _loaded: set[Path] = field(default_factory=set)
    _seen: set[tuple[int, Path]] = field(default_factory=set)  # (thread, library it has tried again with)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ensure_ops(self, error_text: str) -> bool:
        """Whether a load that failed with TensorFlow's `error_text` should be tried again: a library with the missing op was loaded,
        now or, while this thread's load was under way, by another one (versions load side by side).

        Raises NotFound naming the package that would have to be installed, FailedPrecondition when its library does not load."""
        found = _MISSING.search(error_text)
        op = found.group(1) if found else ""
        package = next((one for one in self.packages if one.has(op)), None)
        if package is None:
            return False
        with self._lock:
            files = list(package.files())
            if not files:
                raise NotFound(
                    f"{error_text} The op belongs to the Python package {package.pip}: pip install {package.pip}, in the version "
                    "for this TensorFlow, or name a library that holds it with --op_libraries="
                )
            me = threading.get_ident()
            fresh = [path for path in files if (me, path) not in self._seen and _mentions(path, op)]
            for path in fresh:
                if path not in self._loaded:
                    self._load(package, path, op)
                self._seen.add((me, path))
        return bool(fresh)

    def _load(self, package: OpPackage, path: Path, op: str) -> None:
        try:
            op_linker.load_op_library(path)
        except TfsError as error:
            raise FailedPrecondition(
                f"the model needs the op {op} of {package.pip}, but {path} does not load: {error.message}"
            ) from None
        self._loaded.add(path)
        _log.info("Loaded the op library %s for the op %s", path, op)


def _mentions(path: Path, op: str) -> bool:
    """Whether the file holds the op's name: what registers an op carries its name as text."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(op.encode()) >= 0

"""Large buffers of the core ask the kernel for huge pages.

Owns: that check, by the flags of the mapping that a reply lies in.  Must not know: how replies are made.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import wiretools as wire
from engine_support import DT_FLOAT, Room, ask

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ADVISED = "hg"


def mapping_flags(address: int) -> list[str]:
    """VmFlags of the mapping at an address of this process."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):
            begin, end = (int(part, 16) for part in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "VmFlags:":
            return rest.split()
    raise LookupError(f"no mapping at {address:#x}")


@pytest.mark.skipif(not HUGE_PAGES.exists(), reason="a kernel without transparent huge pages")
def test_a_large_reply_asks_for_huge_pages(room: Room) -> None:
    """The only buffer of more than 32 MiB that this directory's tests make."""
    servable, content = room.model("m"), bytes(40 << 20)
    engine = room.engine()
    engine.publish({"m": {1: servable}}, {})
    tensor = wire.tensor(DT_FLOAT, [len(content) // 4], wire.field(4, content))
    reply = room.consumer(engine).predict(ask(inputs={"x": tensor}))
    assert len(reply) > len(content)
    assert ADVISED in mapping_flags(id(reply) + len(reply) // 2)

"""Freed memory is there for the next batch."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, threading, torch
from service.engine.allocator import keep_freed_memory

def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def allocate_and_free():
    for round in range(40):
        if round == 20:
            before = page_faults()
        blocks = [torch.ones((1 + (round * 7 + place * 5) % 12) * 500_000) for place in range(4)]
        del blocks
    print(page_faults() - before)

if {is_kept}:
    assert keep_freed_memory()
thread = threading.Thread(target=allocate_and_free)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_a_thread_gets_its_freed_blocks_again_without_page_faults() -> None:
    # Of three: the system has reasons of its own, now and then.
    kept = min(_page_faults(is_kept=True) for _ in range(3))
    assert kept < _page_faults(is_kept=False) / 10


def _page_faults(*, is_kept: bool) -> int:
    program = PROGRAM.format(is_kept=is_kept)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return int(done.stdout)

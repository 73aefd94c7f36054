"""A nice worker is nice to other sessions too."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.jobs.priority import NICENESS

SESSION = Path("/proc/self/autogroup")
SHOW = f"import os; print(os.nice(0)); print(open('{SESSION}').read())"  # the file is empty outside a group


@pytest.mark.skipif(not SESSION.exists(), reason="this kernel does not group processes by session")
@pytest.mark.parametrize("is_alone", [True, False])
def test_session_of_its_own_gives_way_and_a_shared_one_does_not(is_alone: bool) -> None:
    code = f"from service.jobs.priority import give_way; give_way(); {SHOW}"
    before = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True).stdout
    after = subprocess.run(
        [sys.executable, "-c", code], start_new_session=is_alone, capture_output=True, text=True, check=True
    ).stdout
    niceness, session = after.splitlines()[:2]
    niceness_before, session_before = before.splitlines()[:2]
    assert int(niceness) == int(niceness_before) + NICENESS
    if is_alone:
        assert session.endswith(f" nice {NICENESS}")
    else:
        assert session == session_before

"""The process that trains: started on a leash, asked to stop, or killed; its memory ends with it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from service.finetuning.task import RunFolder
from service.supervision.leash import leashed

STOP_S = 20.0
"""From the signal to the kill: what a step and saving its state may take."""

_COMMAND = (sys.executable, "-m", "service.finetuning.process")
_OUTPUT = "output.log"
_TAIL_BYTES = 2000


class Child:
    """`with Child(folder) as child:` runs the folder's task; whatever is left of it ends with the block."""

    def __init__(self, folder: RunFolder) -> None:
        self._output = folder.root / _OUTPUT
        self._lifeline, self._held = os.pipe()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                leashed((*_COMMAND, str(folder.root)), lifeline=self._lifeline),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(self._lifeline,),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._held)
        os.close(self._lifeline)

    def wait(self, seconds: float) -> int | None:
        """The exit status, or None when it still runs after this time."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Lets it save its state, for STOP_S at most."""
        self._process.terminate()
        self.wait(STOP_S)

    def last_words(self) -> str:
        """The end of what it said."""
        return tail_of(self._output)


def tail_of(path: Path) -> str:
    """The last lines of a text file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace").strip()

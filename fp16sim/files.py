"""Files that are written whole or not at all, whatever happens on the way."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def write_whole(target: Path, content: bytes) -> None:
    """Put a file in the place of another, if there is one, in a step that cannot be seen half done.

    Its folder must be there. Raises OSError; then the old file is as it was.
    """
    temporary = target.parent / f".fp16sim-{secrets.token_hex(8)}.tmp"
    with _directory(target.parent) as directory:
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except FileExistsError:  # another writer's
            raise
        except BaseException:  # KeyboardInterrupt, too
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        if directory is not None:
            os.fsync(directory)  # else a power cut may take back the new name


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int | None]:
    """A descriptor of a directory; None on Windows, which has none and needs none."""
    if os.name == "nt":
        yield None
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

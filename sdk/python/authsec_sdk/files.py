"""Certificate files for servers that can read nothing else."""

import os
import tempfile
from pathlib import Path
from typing import Dict

from .context import Material

# Both sets of names are in use: the first in examples, the second in programs.
NAMES = {
    "key": ("key.pem", "svid.key"),
    "certificate": ("cert.pem", "svid.crt"),
    "bundle": ("bundle.pem", "ca.crt"),
}


def write(folder: Path, material: Material) -> None:
    """Write all files, each one atomically, readable by the owner alone."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} is a link or another user's: choose another cert_dir")
    folder.chmod(0o700)
    contents: Dict[str, bytes] = {
        "key": material.private_key,
        "certificate": material.certificate,
        "bundle": material.bundle,
    }
    for what, names in NAMES.items():
        for name in names:
            _replace(folder / name, contents[what])


def _replace(path: Path, content: bytes) -> None:
    fd, temporary = tempfile.mkstemp(dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise

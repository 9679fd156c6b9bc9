"""Fetches the official ModelNet zip from the data set's own site, if allowed."""

import os
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

from ncgn_jax.faults import DataError

MODELNET_URL = "http://modelnet.cs.princeton.edu/{name}.zip"
MODELNET10_URL = "http://3dvision.princeton.edu/projects/2014/3DShapeNets/{name}.zip"
_BLOCK = 2**20


def download_modelnet(
    folder: str | os.PathLike[str],
    name: str = "ModelNet40",
    url: str | None = None,
    allow_download: bool = False,
    timeout_seconds: float = 30.0,
) -> Path:
    """Downloads a ModelNet zip into a folder, unless it is there already.

    The file appears under its name only once it is whole: its length is the one
    announced and it opens as a zip with meshes in it. It is never unpacked.

    Args:
      folder: Folder to put the zip in; made if need be.
      name: "ModelNet40" or "ModelNet10".
      url: Address of the zip; None for the data set's own site.
      allow_download: Nothing is fetched unless this is True.
      timeout_seconds: Longest silence of the server.

    Returns:
      Path of the zip.

    Raises:
      DataError: If downloading is not allowed, fails, or yields something else.
    """
    if name not in ("ModelNet40", "ModelNet10"):
        raise DataError(f"name={name!r}; allowed: ModelNet40, ModelNet10")
    target = Path(folder) / f"{name}.zip"
    if target.exists():
        return target
    default = MODELNET_URL if name == "ModelNet40" else MODELNET10_URL
    url = url or default.format(name=name)
    if not allow_download:
        raise DataError(
            f"{target} is absent; put the file from {url} there, or allow the "
            "download with data.allow_download=True"
        )
    if not url.startswith(("http://", "https://")):
        raise DataError(f"url={url!r}; allowed: http:// or https://")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            _fetch(url, file, timeout_seconds)
        _check_zip(Path(temporary), url)
        os.replace(temporary, target)
    except (urllib.error.URLError, OSError) as error:
        raise DataError(
            f"download of {url} failed: {error}; offline? Put the file at {target}, or "
            "use data.source='embedded'"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def _fetch(url: str, file, timeout_seconds: float) -> None:
    with urllib.request.urlopen(url, timeout=timeout_seconds) as response:
        announced = response.headers.get("Content-Length")
        total = int(announced) if announced else None
        received = 0
        bar = tqdm(total=total, unit="B", unit_scale=True, desc=url, disable=None)
        with bar:
            while block := response.read(_BLOCK):
                file.write(block)
                received += len(block)
                bar.update(len(block))
    if total is not None and received != total:
        raise DataError(f"{url}: {received} of {total} bytes received")


def _check_zip(path: Path, url: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # the reader of zips raises whatever it stumbles over
        raise DataError(f"{url}: what came is not a zip ({error})") from error
    if not any(name.lower().endswith(".off") for name in names):
        raise DataError(f"{url}: the zip holds no .off mesh")

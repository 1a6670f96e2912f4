"""What tells one conversion from another, so that only the same one goes on where it was stopped or elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from converter._version import __version__
from converter.formats import Format
from converter.formats.locations import inner_path, is_url, store
from converter.planning.plan import TensorPlan

__all__ = ["state_of", "work_id"]


def work_id(plan: TensorPlan, source: Path, form: Format, max_shard_bytes: int | None) -> str:
    """A digest of the plan, of the form of the output, and of the state of the source."""
    import xxhash

    digest = xxhash.xxh3_128(f"{__version__} {form.name} {max_shard_bytes} {plan.contents}".encode())
    for step in plan.steps:
        digest.update(f"{step.sources} {step.own} {step.ops} {step.target}".encode())
    digest.update(state_of(source).encode())
    return digest.hexdigest()


def state_of(source: Path) -> str:
    """A digest of names, sizes and times of the source's files."""
    import xxhash

    digest = xxhash.xxh3_128()
    for file in sorted(_files(source), key=str):
        if is_url(file):
            digest.update(f"{file} {store(file).ukey(inner_path(file))}".encode())
            continue
        about = file.stat()
        digest.update(f"{file} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()


def _files(source: Path) -> Iterable[Path]:
    """Those that the source may consist of: itself, what is below it, and what stands beside it under its name."""
    if source.is_dir():
        return (file for file in source.rglob("*") if file.is_file())
    stem = source.name.partition(".")[0]
    beside = source.parent.iterdir()
    return (file for file in beside if file.name.startswith((f"{stem}.", f"{stem}-")) and file.is_file())

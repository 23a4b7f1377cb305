"""What is left to do of a batch: its jobs against the manifest and the files in the folder.

Knows names, marks and files; makes no picture.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from scalekv.cli.batch.jobs import Job
from scalekv.cli.batch.manifest import ManifestEntry, read_manifests
from scalekv.cli.batch.rows import shown
from scalekv.cli.pictures.writing import JOB_CHUNK, embedded_texts
from scalekv.kv.errors import UserError

MOST_NAMED = 5  # names in a refusal


@dataclass
class Standing:
    """Where a batch stands.

    Attributes:
        todo: jobs without a picture.
        done: jobs whose picture is there, and in a manifest.
        unlisted: jobs whose picture is there, whole and recognised, but in no manifest: what a kill
            between the two leaves.
        orphans: sidecars whose picture a kill prevented.
        moved: of those done, how many are there under a name that another place in the file gives.
        strangers: pictures of the manifests that no row asks for as the file is now.
        changed: names of pictures whose size is no longer what the manifest says.
    """

    todo: list[Job] = field(default_factory=list)
    done: list[Job] = field(default_factory=list)
    unlisted: list[Job] = field(default_factory=list)
    orphans: list[Path] = field(default_factory=list)
    moved: int = 0
    strangers: int = 0
    changed: list[str] = field(default_factory=list)


def standing(
    folder: Path, jobs: Sequence[Job], suffix: str, resume: bool, marks: Collection[str] = ()
) -> Standing:
    """Compares; changes nothing.

    Args:
        suffix: of the pictures.
        marks: of all pictures of the file, those of other shards too.

    Raises:
        UserError: a manifest that cannot be read, or names taken by files that are not these
            jobs' pictures, or any at all where the batch is not to be resumed.
    """
    sizes = _sizes(folder)
    entries = read_manifests(folder) if resume else {}
    now = Standing()
    taken: list[tuple[Job, str]] = []
    elsewhere = _elsewhere(jobs, suffix, entries, sizes)
    known = {job.mark for job in jobs}.union(marks)
    now.strangers = sum(mark not in known for mark in elsewhere)
    for job in jobs:
        picture, sidecar = job.name + suffix, job.name + ".json"
        own = entries.get(picture)
        if elsewhere.get(job.mark, 0) and (own is None or own.job != job.mark):
            elsewhere[job.mark] -= 1
            now.moved += 1
            now.done.append(job)
        elif picture not in sizes and sidecar not in sizes:
            now.todo.append(job)
        elif not resume:
            taken.append((job, picture if picture in sizes else sidecar))
        elif picture not in sizes or (sizes[picture] == 0 and picture not in entries):
            # Whoever was killed had got as far as the sidecar, or as a name without content.
            if sizes.get(sidecar, 0) == 0 or names_job(folder / sidecar, job):
                now.orphans += [folder / name for name in (picture, sidecar) if name in sizes]
                now.todo.append(job)
            else:
                taken.append((job, sidecar))
        else:
            _place(job, folder / picture, sizes[picture], entries.get(picture), now, taken)
    if taken:
        raise _refusal(folder, taken, resume)
    return now


def _elsewhere(
    jobs: Sequence[Job], suffix: str, entries: Mapping[str, ManifestEntry], sizes: Mapping[str, int]
) -> Counter[str]:
    """How many pictures there are of each mark under names that no job of that mark has: a row that
    was put in, taken out or moved gives the rows after it other names."""
    names = {job.name + suffix: job.mark for job in jobs}
    return Counter(
        entry.job
        for entry in entries.values()
        if entry.file in sizes and names.get(entry.file) != entry.job
    )


def digest(data: bytes) -> str:
    """SHA-256 as manifests have it."""
    return hashlib.sha256(data).hexdigest()


def _place(
    job: Job,
    path: Path,
    size: int,
    entry: ManifestEntry | None,
    now: Standing,
    taken: list[tuple[Job, str]],
) -> None:
    """Sorts in a job whose picture's name is there."""
    if entry is not None and entry.job == job.mark:
        now.done.append(job)
        if entry.size != size:
            now.changed.append(path.name)
    elif entry is None and shows_job(path, job):
        now.unlisted.append(job)
    else:
        taken.append((job, path.name))


def _sizes(folder: Path) -> dict[str, int]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(
            f"cannot read the folder: {error.strerror}",
            where="--out",
            rule="a folder that can be read and written to",
            fix="name another folder with --out DIR",
        ) from None


def shows_job(path: Path, job: Job) -> bool:
    """Whether a file is the whole picture of a job: it says so itself, or where nothing was written
    into it the sidecar does, of exactly these bytes."""
    try:
        with Image.open(path) as image:
            image.load()
        texts = embedded_texts(image)
        if JOB_CHUNK in texts:
            return texts[JOB_CHUNK] == job.mark
        sidecar = json.loads(path.with_suffix(".json").read_bytes())
        return bool(sidecar["job"] == job.mark and sidecar["sha256"] == digest(path.read_bytes()))
    except Exception:  # Pillow raises anything for what is no picture
        return False


def names_job(path: Path, job: Job) -> bool:
    """Whether a file is the sidecar of a job."""
    try:
        content = json.loads(path.read_bytes())
        return isinstance(content, dict) and content.get("job") == job.mark
    except (OSError, ValueError, RecursionError):
        return False


def _refusal(folder: Path, taken: Sequence[tuple[Job, str]], resume: bool) -> UserError:
    names = ", ".join(f"{shown(name)} ({job.place})" for job, name in taken[:MOST_NAMED])
    more = len(taken) - MOST_NAMED
    count = "1 name is" if len(taken) == 1 else f"{len(taken)} names are"
    what = "other pictures or other settings" if resume else "files that are there"
    return UserError(
        f"{count} taken by {what}: {names}" + (f" and {more} more" if more > 0 else ""),
        where=str(folder),
        rule="nothing is overwritten",
        fix="name another folder with --out DIR, or other names with --name TEMPLATE"
        + ("" if resume else "; --resume goes on with a batch that was interrupted"),
    )

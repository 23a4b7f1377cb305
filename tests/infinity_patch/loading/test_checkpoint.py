"""Checkpoints of every published layout are read; everything else is refused, nothing is run."""

from __future__ import annotations

import json
import os
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from scalekv.infinity_patch.loading.checkpoint import WeightsDamaged, open_checkpoint

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(4)}


@pytest.mark.parametrize(
    "layout",
    [TENSORS, {"vae": TENSORS}, {"trainer": {"gpt_fsdp": TENSORS}, "epoch": 3}],
    ids=["plain", "vae", "training"],
)
def test_pytorch_files_of_every_layout(layout: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(layout, path)
    with open_checkpoint(path) as checkpoint:
        assert {n: e.shape for n, e in checkpoint.entries.items()} == {
            "a.weight": (2, 3),
            "b.bias": (4,),
        }
        assert torch.equal(checkpoint.read("a.weight"), TENSORS["a.weight"])


def shards(folder: Path, kind: str = "safetensors") -> Path:
    """TENSORS in two shards with their index."""
    folder.mkdir()
    places = {}
    for number, (name, tensor) in enumerate(TENSORS.items(), start=1):
        places[name] = f"model-0000{number}-of-00002.{kind}"
        if kind == "safetensors":
            save_file({name: tensor}, folder / places[name])
        else:
            torch.save({name: tensor}, folder / places[name])
    index = {"metadata": {}, "weight_map": places}
    (folder / f"model.{kind}.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_read_through_their_index(kind: str, tmp_path: Path) -> None:
    with open_checkpoint(shards(tmp_path / "weights", kind)) as checkpoint:
        for name, tensor in TENSORS.items():
            assert torch.equal(checkpoint.read(name), tensor)


def test_a_folder_with_one_whole_file_needs_no_index(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.entries) == set(TENSORS)


def test_tensors_outlive_their_file(tmp_path: Path) -> None:
    host = torch.device("cpu")
    for path in (tmp_path / "model.safetensors", tmp_path / "model.pth"):
        (save_file if path.suffix == ".safetensors" else torch.save)(TENSORS, path)
        with open_checkpoint(path) as checkpoint:
            same = checkpoint.take("a.weight", torch.float32, host)
            other = checkpoint.take("a.weight", torch.bfloat16, host)
        path.unlink()
        assert torch.equal(same, TENSORS["a.weight"])
        assert torch.equal(other.float(), TENSORS["a.weight"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for its pages")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_pages_are_let_go_as_tensors_are_converted(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    tensors = {f"t{i}": torch.full((4 << 20,), float(i)) for i in range(6)}  # 16 MiB each
    (save_file if suffix == ".safetensors" else torch.save)(tensors, path)
    before = mapped_bytes()
    with open_checkpoint(path) as checkpoint:
        for name in tensors:
            kept = checkpoint.take(name, torch.bfloat16, torch.device("cpu"))
            assert mapped_bytes() - before < 4 << 20
            assert bool((kept == float(name[1:])).all())


def mapped_bytes() -> int:
    """Bytes of mapped files that this process has in memory."""
    status = Path("/proc/self/status").read_text()
    return (
        int(next(row for row in status.splitlines() if row.startswith("RssFile")).split()[1]) << 10
    )


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


class SystemBomb(Bomb):
    """Unpickling it would run a command."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", [Bomb, SystemBomb])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
def test_code_in_a_checkpoint_is_not_run(
    kind: type[Bomb], zipped: bool, suffix: str, tmp_path: Path
) -> None:
    path, mark = tmp_path / f"model{suffix}", tmp_path / "mark"
    held = {**TENSORS, "c.weight": kind(mark)}
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    refused(path)
    assert not mark.exists()


def test_code_in_a_shard_is_not_run(tmp_path: Path) -> None:
    folder, mark = shards(tmp_path / "weights", "bin"), tmp_path / "mark"
    torch.save({"b.bias": Bomb(mark)}, folder / "model-00002-of-00002.bin")
    refused(folder, "holds more than tensors")
    assert not mark.exists()


def refused(path: Path, words: str = "model") -> None:
    """A message for people, and quickly: no tensor data is read."""
    with pytest.raises(WeightsDamaged, match=words) as error, open_checkpoint(path):
        pytest.fail("it was taken for a checkpoint")
    assert error.value.where.startswith(str(path))
    assert error.value.rule
    assert error.value.fix
    assert "\n" not in error.value.what


def header(text: bytes, length: int | None = None) -> bytes:
    """The beginning of a safetensors file; `length` is what it claims its header to have."""
    return struct.pack("<Q", len(text) if length is None else length) + text


def tensor(kind: bytes, shape: bytes, offsets: bytes) -> bytes:
    return b'{"dtype":"' + kind + b'","shape":[' + shape + b'],"data_offsets":[' + offsets + b"]}"


SAFETENSORS = {
    "empty": b"",
    "short": b"\x01\x00",
    "no header": header(b"", 2),
    "a header of a pebibyte": header(b"{}", 1 << 50),
    "a header longer than the file": header(b"{}", 1 << 20),
    "no JSON": header(b"nope"),
    "offsets beyond the file": header(b'{"a":' + tensor(b"F32", b"9", b"0,36") + b"}"),
    "overlapping tensors": header(
        b'{"a":' + tensor(b"F32", b"1", b"0,4") + b',"b":' + tensor(b"F32", b"1", b"0,4") + b"}"
    )
    + b"1234",
    "a size that wraps around": header(
        b'{"a":' + tensor(b"F32", b"4294967296,4294967296", b"0,0") + b"}"
    ),
    "an unknown kind of number": header(b'{"a":' + tensor(b"F99", b"1", b"0,4") + b"}") + b"1234",
    "a PyTorch file": b"PK\x03\x04",
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_damaged_safetensors(case: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(SAFETENSORS[case])
    refused(path, "cannot be read")


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_every_truncation_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(TENSORS, path)
    whole = path.read_bytes()
    for length in {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 8, len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut", b"\x80\x04K*."])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    refused(path)


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(100 << 20))
        archive.writestr("model/version", "3\n")
    assert path.stat().st_size < 1 << 20
    refused(path, "would unpack to more than it is")


def test_other_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no tensors")
    refused(path)


@pytest.mark.parametrize(
    "held",
    [
        {},
        [torch.ones(1)],
        torch.ones(1),
        {"vae": 3},
        {"vae": {}},
        {"trainer": {"other": TENSORS}},
        {"a": torch.ones(1), "epoch": 3},
        {3: torch.ones(1)},
        {"a": torch.ones(2, 2).to_sparse()},
    ],
)
def test_no_state_dict(held: object, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(held, path)
    refused(path, "no state dict")


def edit_index(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps(change(json.loads(index.read_text()))))

    return edit


def places(**changes: object) -> Callable[[Path], None]:
    return edit_index(lambda index: {"weight_map": {**index["weight_map"], **changes}})  # type: ignore[dict-item]


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "00002-of"),
    "missing index": (lambda f: (f / "model.safetensors.index.json").unlink(), "0 index files"),
    "two indexes": (lambda f: (f / "x.safetensors.index.json").write_text("{}"), "2 index files"),
    "index to nowhere": (places(**{"a.weight": "none.safetensors"}), "none.safetensors is missing"),
    "index outside": (places(**{"a.weight": "../x.safetensors"}), "not in its folder"),
    "absolute index": (places(**{"a.weight": "/etc/passwd"}), "not in its folder"),
    "index to itself": (places(**{"a.weight": ".."}), "not in its folder"),
    "index of numbers": (places(**{"a.weight": 3}), "not an index"),
    "tensor elsewhere": (
        places(**{"a.weight": "model-00002-of-00002.safetensors"}),
        "a.weight is not in the shard",
    ),
    "empty index": (edit_index(lambda _: {"weight_map": {}}), "not an index"),
    "list index": (edit_index(lambda _: []), "not an index"),
    "deep index": (
        lambda f: (f / "model.safetensors.index.json").write_text("[" * 200_000),
        "not an index",
    ),
    "binary index": (
        lambda f: (f / "model.safetensors.index.json").write_bytes(b"\xff\xfe"),
        "not an index",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folders(case: str, tmp_path: Path) -> None:
    folder = shards(tmp_path / "weights")
    damage, words = DAMAGE[case]
    damage(folder)
    refused(folder, words)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."]
)
@pytest.mark.parametrize("layout", ["safetensors", "pth", "shards"])
def test_names_that_wrapping_made_are_read_as_the_models_own(
    prefix: str, layout: str, tmp_path: Path
) -> None:
    own = {**TENSORS, "chunks.0.module.0.bias": torch.ones(2)}
    tensors = {prefix + name: tensor for name, tensor in own.items()}
    path = tmp_path / f"model.{layout}"
    if layout == "shards":
        path.mkdir()
        save_file(tensors, path / "a.safetensors")
        index = {"weight_map": dict.fromkeys(tensors, "a.safetensors")}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        (torch.save if layout == "pth" else save_file)(tensors, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.wrapped
        assert checkpoint.entries.keys() == own.keys()
        assert all(torch.equal(checkpoint.read(n), t) for n, t in own.items())


def test_blocks_compiled_one_by_one_are_read_too(tmp_path: Path) -> None:
    save_file({"chunks.0.module.0._orig_mod.bias": torch.ones(2)}, tmp_path / "a.safetensors")
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        assert set(checkpoint.entries) == {"chunks.0.module.0.bias"}


def test_names_that_would_become_the_same_stay(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(1), "_orig_mod.a": torch.ones(1)}
    save_file(tensors, tmp_path / "a.safetensors")
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        assert not checkpoint.wrapped
        assert checkpoint.entries.keys() == tensors.keys()

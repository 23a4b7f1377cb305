"""A stand-in behind the command line's door to the heavy half, and a folder to work in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from scalekv.cli import engine
from scalekv.cli.main import main
from scalekv.infinity_patch import Request
from scalekv.infinity_patch.asked import check as check_module
from scalekv.infinity_patch.asked.settled import Settled
from scalekv.infinity_patch.files.hub import ModelPaths
from scalekv.infinity_patch.loading.placement import Placement
from scalekv.kv.memory.ledger import CacheLedger, LayerRecord
from scalekv.kv.memory.predicted import CacheShape


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, a terminal of 100 columns, no debugging."""
    monkeypatch.setenv("SCALEKV_DEBUG", "0")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


@dataclass(frozen=True)
class Scale:
    """What is told after every scale, in place of the heavy half's own."""

    picture: int
    pictures: int
    scale: int
    scales: int
    held_bytes: int
    together: int = 1


@dataclass
class StandIn:
    """What was asked of the heavy half. Before the picture `fail_at`, `error` is raised, and in
    place of one with a prompt in `failing` always."""

    loaded: list[tuple[Any, ...]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    encoded: list[list[str]] = field(default_factory=list)
    fail_at: int | None = None
    failing: tuple[str, ...] = ()
    error: BaseException | None = None
    truncated: str | None = None
    closed: bool = False
    placement: Placement | None = None
    texts: list[str] = field(default_factory=list)

    def load(
        self,
        preset: Any,
        device: str,
        dtype: str,
        weights_dir: Path | None,
        placement: Placement | None = None,
        texts: Sequence[str] = (),
    ) -> Any:
        self.placement = placement
        self.texts = list(texts)
        self.loaded.append((preset.name, device, dtype, weights_dir))
        return SimpleNamespace(
            preset=preset,
            device=SimpleNamespace(type="cpu", __str__=lambda _: "cpu"),
            dtype="torch.float32",
            weights="fp32",
            computing="float32 on cpu",
            weights_bytes={"transformer": 20_000_000, "vae": 10_000_000, "text_encoder": 5_000},
            stages=SimpleNamespace(
                peaks=lambda: {
                    "load": {"resident_peak_bytes": 40_000_000},
                    "scales": {"resident_peak_bytes": 60_000_000},
                },
                weights=lambda: {
                    "load": {"transformer": 20_000_000, "vae": 10_000_000, "text_encoder": 5_000},
                    "scales": {"transformer": 20_000_000, "vae": 10_000_000, "text_encoder": 0},
                },
                sources=["process: a stand-in"],
            ),
            graphs=SimpleNamespace(possible=False),
            text=SimpleNamespace(cache=None),
        )

    def generate(
        self,
        pipeline: Any,
        settled: Settled,
        on_progress: Callable[[Any], None],
        on_smaller_batch: Callable[[int], None],
    ) -> Iterator[Any]:
        self.requests.append(settled.request)
        try:
            yield from self._pictures(pipeline, settled, on_progress)
        finally:
            self.closed = True

    def _pictures(
        self, pipeline: Any, settled: Settled, on_progress: Callable[[Any], None]
    ) -> Iterator[Any]:
        request, schedule = settled.request, settled.schedule
        pictures = len(request.prompts) * request.num_images
        for index in range(pictures):
            prompt = request.prompts[index // request.num_images]
            if self.error is not None and (index == self.fail_at or prompt in self.failing):
                raise self.error
            for scale in range(len(schedule)):
                on_progress(
                    Scale(
                        picture=index,
                        pictures=pictures,
                        scale=scale,
                        scales=len(schedule),
                        held_bytes=1000 * scale,
                        together=1,
                    )
                )
            yield self._picture(pipeline, settled, index)

    def _picture(self, pipeline: Any, settled: Settled, index: int) -> Any:
        request, schedule = settled.request, settled.schedule
        budget = None if request.policy == "full" else settled.asked
        ledger = CacheLedger(schedule, CacheShape(8, 2, 4, 64, 4, 4), str(request.policy), budget)
        for scale in range(len(schedule)):
            for layer in range(8):
                held = schedule.before(scale)
                capacity = held if budget is None else budget.capacity(scale, layer)
                record = LayerRecord(capacity, capacity, capacity, capacity, 4096 * capacity, 0)
                ledger.record(scale, layer, record)
        ledger.record_held(ledger.full_bytes // 10, 0)
        ledger.record_transient(2, 5000)
        prompt, seed = request.prompts[index // request.num_images], request.seed_of(index)
        return SimpleNamespace(
            image=Image.new("RGB", (8, 8), (seed % 256, len(prompt) % 256, 0)),
            prompt=prompt,
            seed=seed,
            index=index,
            settings={
                "model": pipeline.preset.name,
                "prompt": prompt,
                "seed": seed,
                "policy": request.policy,
            },
            cache=ledger.to_dict(),
            truncated=self.truncated,
            seconds=0.5,
            together=1,
        )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """The heavy half, replaced; requests are still checked for real, with a word a token."""
    return put_in(StandIn(), monkeypatch, tmp_path)


def put_in(fake: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """Puts a stand-in into the heavy half's place; `tmp_path` takes its tokenizer."""
    words = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    words.save(str(tmp_path / "tokenizer.json"))
    paths = ModelPaths(tmp_path / "transformer", tmp_path / "vae", tmp_path)
    monkeypatch.setattr(check_module, "model_files", lambda *_: paths)
    monkeypatch.setattr(engine, "load", fake.load)
    monkeypatch.setattr(engine, "generate", fake.generate)
    monkeypatch.setattr(engine, "encode", lambda _, texts: fake.encoded.append(list(texts)))
    return fake


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def scalekv(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the program with arguments, in this process."""

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(arguments)
        output = capsys.readouterr()
        return Outcome(code, output.out, output.err)

    return run

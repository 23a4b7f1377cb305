"""Scales recorded once and replayed, with a stand-in for CUDA graphs that a CPU can replay: every
operation of a piece is noted with the tensors it read and made, and done again into those."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from scalekv.infinity_patch import Picture, Pipeline, Placement, Request, generate, load, patched
from scalekv.infinity_patch.compute.graphs import KEPT, Graphs, Reading
from scalekv.infinity_patch.evaluation.drawing import draw_with_bits
from scalekv.infinity_patch.files.hub import BUILT_IN
from scalekv.infinity_patch.generation import scales as scales_module
from scalekv.infinity_patch.model.scale_loop import generate_codes
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.infinity_patch.pieces import padded_text
from scalekv.kv.errors import UserError
from scalekv.kv.policies.policy import Step
from scalekv.kv.policies.registry import policy_named

T = TypeVar("T")


class _Noted(TorchDispatchMode):
    """Notes operations with the tensors they read and made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        read = {place(t) for t in tensors((args, kwargs))}
        self.calls.append(
            (function, args, kwargs, [t for t in tensors(out) if place(t) not in read])
        )
        return out


def tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, Tensor)]


def place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class StandInTape:
    """Replays what was noted: what an operation makes is written where it was made at first."""

    def __init__(self) -> None:
        self._pieces: list[_Noted] = []

    def record(self, work: Callable[[], T]) -> T:
        with _Noted() as noted:
            made = work()
        self._pieces.append(noted)
        return made

    def replay(self, piece: int) -> None:
        for function, args, kwargs, made in self._pieces[piece].calls:
            again = tensors(function(*args, **kwargs))
            if made:
                for old, new in zip(made, again, strict=True):
                    old.copy_(new)


class StandInTapes:
    def __init__(self) -> None:
        self.nbytes = 0
        self.cleared = 0

    def begin(self) -> StandInTape:
        return StandInTape()

    def end(self) -> None:
        self.nbytes += 1000

    def clear(self) -> None:
        self.cleared += 1
        self.nbytes = 0


@pytest.fixture(scope="module")
def loaded() -> Pipeline:
    return load("emoji", device="cpu", dtype="fp32", placement=Placement(threads=1))


@pytest.fixture(scope="module")
def shallow(loaded: Pipeline) -> Pipeline:
    """Its first two blocks: replaying operations one by one takes long, and all blocks are
    alike."""
    spec = replace(loaded.preset.transformer, depth=2, chunks=1)
    model = Infinity(spec, loaded.preset.tokenizer.token_bits).eval().requires_grad_(False)
    values = loaded.model.state_dict()
    model.load_state_dict({name: values[name] for name in model.state_dict()})
    preset = replace(loaded.preset, name="two-blocks", transformer=spec)
    return replace(loaded, model=model, preset=preset, weights_dir=BUILT_IN / "emoji")


@pytest.fixture
def pipeline(shallow: Pipeline) -> Iterator[Pipeline]:
    shallow.graphs = Graphs(StandInTapes())
    weights = shallow.model.lvl_embed.weight.clone()
    yield shallow
    shallow.model.lvl_embed.weight.data.copy_(weights)


def pictures(pipeline: Pipeline, *prompts: str, seed: int = 0, **asked: Any) -> list[Picture]:
    return list(generate(pipeline, Request(prompts, seed=seed, **asked)))


def same(left: list[Picture], right: list[Picture]) -> bool:
    return all(
        np.array_equal(np.asarray(a.image), np.asarray(b.image)) and a.cache == b.cache
        for a, b in zip(left, right, strict=True)
    )


PROMPTS = ("a fox", "an owl", "a red apple", "a house")


@pytest.mark.parametrize("policy", ["full", "scalekv", "h2o", "heatkv", "coded"])
def test_replayed_pictures_are_the_computed_ones(loaded: Pipeline, policy: str) -> None:
    loaded.graphs = Graphs(StandInTapes())
    drawn = pictures(loaded, *PROMPTS[:3], policy=policy)
    assert loaded.graphs.to_dict() == {
        "mode": "auto",
        "recorded": 1,
        "replayed": 1,
        "held_bytes": 1000,
        "eager": {},
    }
    loaded.graphs = Graphs(StandInTapes(), "off")
    assert same(drawn, pictures(loaded, *PROMPTS[:3], policy=policy))
    assert loaded.graphs.recorded == loaded.graphs.replayed == 0


def test_batches_and_guidance(pipeline: Pipeline) -> None:
    asked: dict[str, Any] = {
        "batch_size": 2,
        "reproducible": False,
        "cfg": (3.0,) * 5 + (1.0, 1.0),
        "num_images": 2,
    }
    drawn = pictures(pipeline, *PROMPTS, **asked)
    assert pipeline.graphs.replayed == 2
    pipeline.graphs = Graphs(StandInTapes(), "off")
    assert same(drawn, pictures(pipeline, *PROMPTS, **asked))


def test_progress_and_held_bytes_arrive_from_a_replay(pipeline: Pipeline) -> None:
    told: list[tuple[int, int, int]] = []
    asked = Request(PROMPTS[:3])
    for _ in generate(
        pipeline, asked, on_progress=lambda p: told.append((p.picture, p.scale, p.held_bytes))
    ):
        pass
    assert pipeline.graphs.replayed == 1
    first, replayed = ([t[1:] for t in told if t[0] == picture] for picture in (0, 2))
    assert first == replayed
    assert len(first) == 7


def test_the_first_picture_is_recorded_where_that_is_asked_for(pipeline: Pipeline) -> None:
    pipeline.graphs.mode = "on"
    pictures(pipeline, "a fox")
    assert (pipeline.graphs.recorded, pipeline.graphs.replayed) == (1, 0)
    pictures(pipeline, "an owl", seed=4)
    assert (pipeline.graphs.recorded, pipeline.graphs.replayed) == (1, 1)


def test_a_picture_with_its_bits_is_computed_where_it_could_be_replayed(pipeline: Pipeline) -> None:
    pipeline.graphs.mode = "on"
    (replayed,) = pictures(pipeline, "a fox", policy="full")
    drawn = draw_with_bits(pipeline, Request(("a fox",), policy="full"))
    assert (pipeline.graphs.recorded, pipeline.graphs.replayed) == (1, 0)
    assert [len(bits) for bits in drawn.bits] == [1, 4, 16, 36, 64, 144, 256]
    assert np.array_equal(drawn.picture, np.asarray(replayed.image))


def test_the_length_of_a_prompt_is_a_bucket(pipeline: Pipeline) -> None:
    pipeline.graphs.mode = "on"
    pictures(pipeline, "a fox", "a red apple and a fox", "the fox " * 10)
    assert (pipeline.graphs.recorded, pipeline.graphs.replayed) == (2, 1)


def test_buckets() -> None:
    assert [padded_text(n, 512) for n in (1, 16, 17, 33, 77, 128, 300, 512)] == [
        *(16, 16, 32, 64, 128, 128, 512, 512)
    ]
    assert [padded_text(n, 96) for n in (20, 65, 96)] == [32, 96, 96]


@pytest.mark.parametrize(
    "changed",
    [
        {"budget": "20%"},
        {"policy": "h2o"},
        {"kv_dtype": "int8"},
        {"cfg": 2.0},
        {"tau": 0.5},
        {"top_p": 0.5},
        {"negative": "a dog"},
        {"cfg_layer": -2},
    ],
    ids=str,
)
def test_what_differs_is_recorded_apart(pipeline: Pipeline, changed: dict[str, Any]) -> None:
    pipeline.graphs.mode = "on"
    pictures(pipeline, "a fox")
    drawn = pictures(pipeline, "a fox", **changed)
    assert (pipeline.graphs.recorded, pipeline.graphs.replayed) == (2, 0)
    pipeline.graphs = Graphs(StandInTapes(), "off")
    assert same(drawn, pictures(pipeline, "a fox", **changed))


def test_the_oldest_is_let_go(pipeline: Pipeline) -> None:
    pipeline.graphs.mode = "on"
    budgets = [f"{20 + i}%" for i in range(KEPT + 1)]
    for budget in (*budgets, budgets[-1], budgets[1], budgets[0]):
        pictures(pipeline, "a fox", budget=budget)
    assert (pipeline.graphs.recorded, pipeline.graphs.replayed) == (KEPT + 2, 2)


def test_weights_that_change_are_not_drawn_with_as_they_were(pipeline: Pipeline) -> None:
    pipeline.graphs.mode = "on"
    before = pictures(pipeline, "a fox")
    with torch.no_grad():
        pipeline.model.lvl_embed.weight.mul_(1.5)
    after = pictures(pipeline, "a fox")
    assert (pipeline.graphs.recorded, pipeline.graphs.replayed) == (2, 0)
    assert not same(before, after)
    module: nn.Module = pipeline.model.blocks[0].sa.proj
    handle = module.register_forward_hook(lambda module, inputs, output: output * 1.5)
    hooked = pictures(pipeline, "a fox")
    handle.remove()
    assert not same(after, hooked)
    assert same(after, pictures(pipeline, "a fox"))


class Newest:
    """A policy that is not of the registry."""

    name = "newest"

    def select(self, step: Step) -> Tensor | None:
        return policy_named("sliding-window").select(step)


def test_what_is_computed_each_time_says_why(pipeline: Pipeline) -> None:
    pipeline.graphs.mode = "on"
    for _ in range(2):
        pictures(pipeline, "a fox", policy=Newest())
    with patched(pipeline.model, "scalekv", "20%"):
        list(generate(pipeline, "a fox"))
    assert pipeline.graphs.recorded == 0
    assert set(pipeline.graphs.refused) == {
        "a policy that is not one of the program's may do anything",
        "the caches of a `with patched(...)` block are its own",
    }


def test_a_recording_that_fails_costs_no_picture(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def failing(self: StandInTape, work: Callable[[], Any]) -> Any:
        calls.append(work)
        if len(calls) == 3:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return work()

    monkeypatch.setattr(StandInTape, "record", failing)
    drawn = pictures(pipeline, *PROMPTS)
    assert len(calls) == 3  # tried once
    assert pipeline.graphs.to_dict()["eager"] == {
        "RuntimeError: operation not permitted when stream is capturing": 1
    }
    pipeline.graphs = Graphs(StandInTapes(), "off")
    assert same(drawn, pictures(pipeline, *PROMPTS))


def test_a_recording_that_draws_otherwise_is_not_used(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandInTape, "replay", lambda self, piece: None)
    whole = scales_module.Recording.replayed

    def other(self: Any, *arguments: Any) -> Any:
        drawn = whole(self, *arguments)
        return replace(drawn, codes=drawn.codes + 1)

    monkeypatch.setattr(scales_module.Recording, "replayed", other)
    drawn = pictures(pipeline, *PROMPTS)
    assert pipeline.graphs.replayed == 0
    assert pipeline.graphs.to_dict()["eager"] == {
        "what was replayed was not what had been computed": 1
    }
    pipeline.graphs = Graphs(StandInTapes(), "off")
    assert same(drawn, pictures(pipeline, *PROMPTS))


def test_an_interrupt_while_recording_is_one(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: StandInTape, work: Callable[[], Any]) -> Any:
        raise KeyboardInterrupt

    pipeline.graphs.mode = "on"
    monkeypatch.setattr(StandInTape, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pictures(pipeline, "a fox")
    monkeypatch.undo()
    pictures(pipeline, "a fox", "an owl")
    assert (pipeline.graphs.recorded, pipeline.graphs.replayed) == (1, 1)


def test_recordings_go_before_pictures_do(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.graphs.mode = "on"
    pictures(pipeline, "a fox")
    tried = []

    def short(*arguments: Any, **options: Any) -> Tensor:
        tried.append(1)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return generate_codes(*arguments, **options)

    monkeypatch.setattr(scales_module, "generate_codes", short)
    assert len(pictures(pipeline, "a fox", budget="30%")) == 1
    tapes = pipeline.graphs.tapes
    assert isinstance(tapes, StandInTapes)
    assert tapes.cleared == 1


def test_a_cpu_has_none() -> None:
    assert not load("emoji", device="cpu").graphs.possible
    with pytest.raises(UserError, match="graphs"):
        load("emoji", device="cpu", placement=Placement(graphs="on"))


def test_what_work_reads_is_kept_and_neither_weights_nor_what_it_makes() -> None:
    weight, table, reading = nn.Parameter(torch.ones(2, 2)), torch.arange(2.0), Reading()
    with torch.inference_mode():
        with reading:
            made = nn.functional.linear(table, weight).view(2) + 1
        with reading:  # the next piece
            made.add_(table[:1])
    assert list(reading.kept) == [place(table)]
    assert made.tolist() == [2.0, 2.0]


@pytest.mark.gpu
@pytest.mark.parametrize("policy", ["full", "scalekv", "coded"])
def test_on_a_device(policy: str) -> None:
    recorded = load("emoji", device="cuda")
    drawn = pictures(recorded, *PROMPTS, policy=policy)
    assert recorded.graphs.replayed == 2, recorded.graphs.to_dict()
    assert recorded.graphs.nbytes > 0
    computed = load("emoji", device="cuda", placement=Placement(graphs="off"))
    assert same(drawn, pictures(computed, *PROMPTS, policy=policy))

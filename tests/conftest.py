"""What all tests share: a gpu mark that skips with a reason, and a world without the user's own
settings, without a network and, for hypothesis, without chance."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.hub_server import Hub

ROOT = Path(__file__).parents[1]

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, which reads it once
if not Path("/dev/nvidiactl").exists():  # where there is no device, kernels are interpreted
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported, which reads it once
os.environ["HF_HUB_CACHE"] = os.path.join(tempfile.gettempdir(), "scalekv-tests-have-no-cache")

# Tests started in the background may ignore Ctrl-C, those under nohup the terminal's end, and the
# programs they start inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


SLOW = frozenset(
    "tests/" + name + ".py"
    for name in (
        "builtin/gpu/test_run",
        "cli/batch/test_command",
        "cli/batch/test_kill",
        "cli/batch/test_rows",
        "cli/batch/test_text",
        "cli/calibrate/test_command",
        "cli/cluster/test_process",
        "cli/console/test_interrupts",
        "cli/console/test_streams",
        "cli/eval/test_benchmarks",
        "cli/eval/test_command",
        "cli/eval/test_command",
        "cli/generate/test_command",
        "cli/generate/test_files",
        "cli/generate/test_once",
        "cli/generate/test_record",
        "cli/generate/test_repeat",
        "cli/plan/test_cards",
        "cli/plan/test_check",
        "cli/plan/test_command",
        "cli/plan/test_lighter",
        "cli/plan/test_one_answer",
        "cli/report/test_command",
        "cli/report/test_kinds",
        "cli/report/test_page",
        "cli/selftest/test_command",
        "cli/serve/test_page",
        "cli/serve/test_process",
        "cli/serve/test_server",
        "cli/test_config",
        "cli/test_doctor",
        "cli/test_download",
        "cli/test_main",
        "infinity_patch/calibration/test_measure",
        "infinity_patch/compute/test_launches",
        "infinity_patch/compute/test_products",
        "infinity_patch/files/test_text_cache",
        "infinity_patch/generation/test_attention_record",
        "infinity_patch/generation/test_batching",
        "infinity_patch/generation/test_forced",
        "infinity_patch/generation/test_golden",
        "infinity_patch/generation/test_graphs",
        "infinity_patch/generation/test_host",
        "infinity_patch/generation/test_late_guidance",
        "infinity_patch/generation/test_official",
        "infinity_patch/generation/test_patch",
        "infinity_patch/generation/test_pipeline",
        "infinity_patch/generation/test_sharing",
        "infinity_patch/generation/test_stop_after",
        "infinity_patch/loading/test_convert",
        "infinity_patch/loading/test_loader",
        "infinity_patch/loading/test_weights",
        "infinity_patch/model/test_t5",
        "infinity_patch/planning/test_footprint",
        "infinity_patch/selftest/test_matrices",
        "infinity_patch/selftest/test_official",
        "infinity_patch/selftest/test_parts",
        "infinity_patch/selftest/test_policies",
        "kv/caches/test_caches",
        "kv/kernels/test_kernels",
        "test_benchmarks",
        "test_notebook",
        "test_packaging",
        "test_recipes",
        "test_soak",
        "test_tour",
    )
)
"""Files whose tests take seconds together: `scripts/test --quick` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(ROOT).as_posix() in SLOW:
            item.add_marker(pytest.mark.slow)
    # slow files first: where several processes take them in order, all of them end together
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch  # here, so that tests of plain arithmetic start without it

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, torch sees none"))


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither SCALEKV_* variables nor a configuration file of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("SCALEKV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def encoded_before(
    no_settings_of_the_user: None,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """Encodes prompts for the programs that a test starts, which then find their features and do
    not import transformers, half of what a start takes."""
    base = tmp_path_factory.getbasetemp()  # a worker's lies in that of all
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "texts"

    def encode(*prompts: str) -> None:
        from scalekv.infinity_patch import Placement, load

        load("emoji", device="cpu", placement=Placement(text_cache=folder)).text.encode(prompts)
        monkeypatch.setenv("SCALEKV_TEXT_CACHE", str(folder))

    return encode


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub; this process takes it for the real one and is online for it alone."""
    from huggingface_hub import (
        constants,
    )  # here, so that tests of plain arithmetic start without it

    from scalekv.infinity_patch.files import transfer
    from tests.hub_server import Hub, tiny_repos

    hub = Hub(tiny_repos())
    server = hub.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(transfer, "WAIT_SECONDS", 0.0)
    monkeypatch.setenv("HF_TOKEN", "")
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which this process takes for the user's."""
    from huggingface_hub import constants

    path = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(path))
    return path

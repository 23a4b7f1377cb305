"""float32 stays float32 while pictures are made, and the process's settings stay its own."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Barrier, Thread
from typing import Any

import pytest
import torch

from scalekv.configs.spec import TokenizerSpec
from scalekv.infinity_patch.compute.exact import exact_float32
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from tests.infinity_patch.small import SHORT, run, small_model

EXACT = ("highest", False)


def allowed() -> tuple[str, bool]:
    """What torch may do to float32: its products, and its convolutions on a device."""
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(params=["highest", "high", "medium"])
def before(request: pytest.FixtureRequest) -> Iterator[tuple[str, bool]]:
    own = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield allowed()
    torch.set_float32_matmul_precision(own)


def test_settings_are_put_back(before: tuple[str, bool]) -> None:
    with exact_float32(), exact_float32():
        assert allowed() == EXACT
    assert allowed() == before == (before[0], True)
    with pytest.raises(KeyboardInterrupt), exact_float32():
        raise KeyboardInterrupt
    assert allowed() == before


def test_the_last_thread_puts_them_back(before: tuple[str, bool]) -> None:
    both, left = Barrier(2), Barrier(2)

    def first() -> None:
        with exact_float32():
            both.wait()
        left.wait()

    thread = Thread(target=first)
    thread.start()
    with exact_float32():
        both.wait()
        left.wait()
        assert allowed() == EXACT
    thread.join()
    assert allowed() == before


def test_pictures_are_made_in_float32(before: tuple[str, bool]) -> None:
    model, seen = small_model(), []
    model.blocks[0].register_forward_pre_hook(lambda *_: seen.append(allowed()))
    run(model)
    spec = TokenizerSpec(bits=8, stride=4, patchify=False, ch=32, ch_mult=(1, 1, 1), res_blocks=1)
    vae = Autoencoder(spec)
    vae.decoder.conv_in.register_forward_pre_hook(lambda *_: seen.append(allowed()))
    with torch.inference_mode():
        vae.decode(torch.zeros(1, 8, 2, 2))
    assert seen == [EXACT] * (len(SHORT) + 1)
    assert allowed() == before


@pytest.mark.skipif(not hasattr(torch._C, "_get_fp32_precision_getter"), reason="older torch")
def test_the_newer_way_to_say_it_is_put_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    get: Any = torch._C._get_fp32_precision_getter
    own = get("cuda", "matmul")
    torch._C._set_fp32_precision_setter("cuda", "matmul", "tf32")
    try:
        with exact_float32():
            assert get("cuda", "matmul") == get("cuda", "conv") == "ieee"
        assert get("cuda", "matmul") == get("cuda", "conv") == "tf32"
    finally:
        torch._C._set_fp32_precision_setter("cuda", "matmul", own)

"""From a preset and its files to a pipeline, with no second copy of the weights in memory.

All files are opened and checked by names and shapes before anything is allocated; then every
tensor is read once, into the dtype and onto the device it is used in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from scalekv.configs.models import ModelPreset, model_named
from scalekv.configs.spec import EIGHT_BITS
from scalekv.infinity_patch.compute.graphs import CudaTapes, Graphs
from scalekv.infinity_patch.compute.offload import BlockStream
from scalekv.infinity_patch.compute.processor import fast_bf16
from scalekv.infinity_patch.compute.scaled import has_fp8_products
from scalekv.infinity_patch.files.hub import model_files
from scalekv.infinity_patch.loading.checkpoint import open_checkpoint
from scalekv.infinity_patch.loading.fitting import check_fits, put_tensor, skeletons
from scalekv.infinity_patch.loading.placement import Placement, check_device, check_dtype
from scalekv.infinity_patch.loading.reading import CheckpointReader, fit
from scalekv.infinity_patch.loading.text_files import (
    check_text_encoder,
    read_text_encoder,
    text_cache,
)
from scalekv.infinity_patch.machine.computes import on_threads
from scalekv.infinity_patch.machine.peaks import Stages
from scalekv.infinity_patch.model.autoencoder import Autoencoder
from scalekv.infinity_patch.model.text import TextEncoder, TextPrecision
from scalekv.infinity_patch.model.transformer import Infinity
from scalekv.kv.dtypes import TORCH_DTYPES
from scalekv.kv.errors import UserError

log = logging.getLogger("scalekv")


@dataclass
class Pipeline:
    """A model ready to generate.

    `weights` is how the transformer's blocks hold theirs: "int8", "fp8", or the name of `dtype`;
    `read_bytes` maps transformer and VAE to the bytes of their tensors; `stages` has the peaks of
    loading, and of everything that is generated with it; `threads` is how many a CPU computes with
    while pictures are made, None as many as torch is set to; `graphs` has what was recorded of it.
    """

    preset: ModelPreset
    model: Infinity
    vae: Autoencoder
    text: TextEncoder
    device: torch.device
    dtype: torch.dtype
    weights: str
    weights_dir: Path | None
    read_bytes: dict[str, int]
    stages: Stages
    threads: int | None = None
    graphs: Graphs = field(default_factory=lambda: Graphs(None))

    @property
    def weights_bytes(self) -> dict[str, int]:
        """Bytes of each part's tensors; 0 for a text encoder that was never read."""
        return {**self.read_bytes, "text_encoder": self.text.nbytes if self.text.was_read else 0}

    @property
    def computing(self) -> str:
        """In what it computes, where, and how it holds its weights, in words."""
        words = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        if self.weights not in EIGHT_BITS:
            return words
        words += f", weights in {self.weights}"
        if self.weights != "fp8":
            return words
        able = self.dtype is torch.bfloat16 and has_fp8_products(self.device)
        return words + (", multiplied in it" if able else f", which {self.device} cannot multiply")

    def weights_there(self) -> dict[str, int]:
        """Bytes of each part's tensors that are on the device now."""
        transformer, stream = self.read_bytes["transformer"], self.model.stream
        if stream is not None:
            parameters = (p for p in self.model.parameters() if p.device.type == self.device.type)
            transformer = sum(p.nbytes for p in parameters) + stream.nbytes
        return {
            "transformer": transformer,
            "vae": self.read_bytes["vae"],
            "text_encoder": self.text.bytes_on(self.device),
        }


def load(
    model: str | ModelPreset = "emoji",
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights_dir: str | Path | None = None,
    placement: Placement | None = None,
    texts: Sequence[str] = (),
) -> Pipeline:
    """Load a model.

    Args:
        model: the name of a preset, or one.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", "mps".
        dtype: of the matrix products inside the blocks: "auto" (the preset's own, else bf16 on
            CUDA and on a CPU with fast bf16 products, fp32 elsewhere), "fp32", "bf16", "fp16".
            What surrounds the blocks stays in float32; the decoder of pictures runs in bf16 too
            where the blocks do.
        weights_dir: a folder with the preset's files instead of the usual place.
        placement: what is kept off the device; by default everything is on it.
        texts: that will be encoded, at most `REMEMBERED`; see `Placement.text_first`.

    Raises:
        UserError: missing, damaged or foreign weights, or a device that is not there.
    """
    preset = model if isinstance(model, ModelPreset) else model_named(model)
    choice = placement or Placement()
    place = device_named(device, "--device")
    precision = _precision(dtype, preset, place)
    text_precision = _text_choice(choice, place)
    if choice.offload and place.type == "cpu":
        raise UserError(
            "nothing can be kept off a device that is the host itself",
            where="--offload",
            rule="the blocks stay in host memory and are sent to a device with its own",
            fix="leave --offload out, or name a device: --device cuda",
        )
    if choice.graphs == "on" and place.type != "cuda":
        raise UserError(
            f"{place.type} has no graphs",
            where="--graphs",
            rule="what is recorded and replayed are CUDA graphs",
            fix="leave --graphs out, or name a device: --device cuda",
        )
    folder = None if weights_dir is None else Path(weights_dir)
    paths = model_files(preset, folder)
    # 1. what the files should hold, without a byte of it
    transformer, vae = skeletons(preset)
    stages = Stages(place)
    with ExitStack() as stack:
        # 2. whether they do
        with stages.stage("load"):
            transformer_file = stack.enter_context(open_checkpoint(paths.transformer))
            vae_file = stack.enter_context(open_checkpoint(paths.vae))
            for file in (transformer_file, vae_file):
                if file.wrapped:
                    log.warning(
                        "%s: read without what wrapping a module adds to names, as module. and "
                        "_orig_mod.",
                        file.path.name,
                    )
            weights = fit(transformer, transformer_file, preset, choice.weights, precision)
            check_fits(vae, vae_file, preset, "VAE")
            check_text_encoder(paths.text_encoder, preset)
            text = read_text_encoder(
                paths.text_encoder,
                text_precision,
                keep=choice.keep_text_encoder is not False,
                cache=choice.text_cache,
            )
        # 3. texts, while nothing else is there
        if choice.text_first:
            stages.inventory = lambda: {"text_encoder": text.bytes_on(place)}
            with stages.stage("encode"), on_threads(choice.threads):
                text.encode(texts)
            text.free()
        # 4. the tensors
        with stages.stage("load"):
            host = torch.device("cpu")
            for module, file in ((transformer, transformer_file), (vae, vae_file)):
                reader = CheckpointReader(file, module, precision)
                for name, _ in list(module.named_parameters()):
                    stays = choice.offload and name.startswith("block_chunks.")
                    put_tensor(module, name, reader.read(name, host if stays else place))
            transformer.preset_name = preset.name
            if choice.offload:
                transformer.stream = BlockStream(transformer.blocks, place)
            if text.cache is None and not choice.text_first:  # else it may well not be needed
                text.load()
            pipeline = Pipeline(
                preset=preset,
                model=transformer.eval().requires_grad_(False),
                vae=vae.eval().requires_grad_(False),
                text=text,
                device=place,
                dtype=precision,
                weights=weights,
                weights_dir=folder,
                read_bytes={
                    "transformer": sum(p.nbytes for p in transformer.parameters()),
                    "vae": sum(p.nbytes for p in vae.parameters()),
                },
                stages=stages,
                threads=choice.threads,
                graphs=Graphs(CudaTapes(place) if place.type == "cuda" else None, choice.graphs),
            )
            stages.recorded = lambda: pipeline.graphs.nbytes
            stages.inventory = pipeline.weights_there
    return pipeline


def texts_at_hand(
    preset: ModelPreset,
    texts: Iterable[str],
    *,
    device: str,
    weights_dir: Path | None,
    placement: Placement,
) -> bool:
    """Whether the placement's text cache has the features of all these texts, so that no encoder
    is to be read.

    Args:
        device, weights_dir: as for `load`.

    Raises:
        UserError: files or a device that are not there, or a cache that cannot be a folder.
    """
    if placement.text_cache is None:
        return False
    precision = _text_choice(placement, device_named(device, "--device"))
    folder = model_files(preset, weights_dir).text_encoder
    cache = text_cache(placement.text_cache, folder, precision)
    with on_threads(placement.threads):  # features depend on it
        return all(map(cache.has, texts))


def _text_choice(choice: Placement, place: torch.device) -> TextPrecision:
    """Where the text encoder computes, in what, and how it holds its weights."""
    dtype = choice.text_dtype_on(place.type)
    if choice.text_device != "auto":
        place = device_named(choice.text_device, "--text-device")
    return TextPrecision(place, _text_precision(dtype, place), choice.text_dtype == "int8")


def device_named(name: str, where: str) -> torch.device:
    """The torch device of a name, checked to exist.

    Raises:
        UserError: it is not, or torch was built without it.
    """
    check_device(name, where)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"there is no device {name!r} here",
            where=where,
            rule="auto, cpu, cuda, cuda:N or mps, as this machine and this torch have it",
            fix=f"{where} cpu",
        ) from error
    return device


def _precision(name: str, preset: ModelPreset, device: torch.device) -> torch.dtype:
    check_dtype(name, "--dtype")
    if name == "auto":
        name = preset.dtype
    if name == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and fast_bf16())
        name = "bf16" if fast else "fp32"
    return _usable(TORCH_DTYPES[name], device, "--dtype")


def _text_precision(name: str, device: torch.device) -> torch.dtype:
    check_dtype(name, "--text-dtype")
    if name == "fp16" and device.type == "cpu":
        raise UserError(
            "the text encoder does not run in fp16 on a CPU",
            where="--text-dtype",
            rule="fp32 or bf16 on a CPU",
            fix="--text-dtype bf16",
        )
    return _usable(TORCH_DTYPES[name], device, "--text-dtype")


def _usable(dtype: torch.dtype, device: torch.device, where: str) -> torch.dtype:
    """The dtype, if the device multiplies matrices in it."""
    try:
        square = torch.ones(2, 2, dtype=dtype, device=device)
        torch.mm(square, square)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise UserError(
            f"{device} does not compute in {str(dtype).removeprefix('torch.')}",
            where=where,
            rule=(str(error).splitlines() or [""])[0],
            fix=f"{where} fp32",
        ) from error
    return dtype

"""A process of its own that runs a checkout of the published code on bits that are given.

    python -m scalekv.infinity_patch.selftest.official_child CHECKOUT ASKED.json IN OUT

IN and OUT are safetensors files: text features and bits, and what the model said of them. What the
checkout imports, prints and leaves behind stays in this process. Knows the published interface, see
docs/official-code.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalekv.infinity_patch.loading.checkpoint import open_checkpoint


def main(checkout: str, asked_path: str, inputs_path: str, outputs_path: str) -> None:
    """Loads the published model and writes its logits, (G, L, d, 2) float32 before guidance and
    temperature, as "logits.PROMPT.SCALE"."""
    asked: dict[str, Any] = json.loads(Path(asked_path).read_text(encoding="utf-8"))
    inputs = load_file(inputs_path)
    sys.path.insert(0, checkout)
    os.chdir(checkout)
    code = import_module("tools.run_infinity")
    arguments = argparse.Namespace(**asked["arguments"])
    with torch.no_grad():
        vae = code.load_visual_tokenizer(arguments)
        model = code.load_transformer(vae, arguments)
        if not arguments.bf16:
            _as_stored(model, Path(arguments.model_path))
        found = {}
        for prompt in range(asked["prompts"]):
            for scale, logits in enumerate(_logits(model, vae, asked, inputs, prompt)):
                found[f"logits.{prompt}.{scale}"] = logits
    save_file(found, outputs_path)


def _as_stored(model: Any, path: Path) -> None:
    """Gives the model its weights in float32: the published loader rounds them to bf16."""
    model.float()
    with open_checkpoint(path) as checkpoint:
        state = {
            name: checkpoint.take(name, torch.float32, torch.device("cpu"))
            for name, entry in checkpoint.entries.items()
            if entry.floating
        }
        model.load_state_dict(state, strict=False)


def _logits(
    model: Any, vae: Any, asked: dict[str, Any], inputs: dict[str, Tensor], prompt: int
) -> list[Tensor]:
    device = next(model.parameters()).device
    text = inputs[f"text.{prompt}"].to(device)
    scales = len(asked["schedule"])
    bits = [inputs[f"bits.{prompt}.{scale}"].to(device) for scale in range(scales)]
    ends = torch.tensor([0, len(text)], dtype=torch.int32, device=device)
    seen: list[Tensor] = []
    inner = model.get_logits

    def get_logits(*arguments: Any) -> Tensor:
        logits: Tensor = inner(*arguments)
        seen.append(logits.detach().float().cpu().unflatten(-1, (-1, 2)).contiguous())
        return logits

    model.get_logits = get_logits
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(asked["arguments"]["bf16"])):
            model.autoregressive_infer_cfg(
                vae=vae,
                scale_schedule=[tuple(scale) for scale in asked["schedule"]],
                label_B_or_BLT=(text, [len(text)], ends, len(text)),
                B=1,
                g_seed=0,
                cfg_list=asked["cfg"],
                tau_list=asked["tau"],
                top_k=900,
                top_p=asked["top_p"],
                returns_vemb=1,
                cfg_insertion_layer=asked["cfg_insertion_layer"],
                vae_type=asked["arguments"]["vae_type"],
                ret_img=False,
                gt_leak=scales,
                gt_ls_Bl=bits,
                inference_mode=True,
                sampling_per_bits=1,
            )
    finally:
        del model.get_logits
    if len(seen) != scales:
        raise RuntimeError(f"get_logits was called {len(seen)} times for {scales} scales")
    return seen


if __name__ == "__main__":
    main(*sys.argv[1:])

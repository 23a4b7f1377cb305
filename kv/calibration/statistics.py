"""Where attention goes while pictures are generated with the full cache: how much every source
scale gets, how peaked it is, its entropy, how it differs from query to query; and how keys change
from map to map. Measures only; `scalekv.kv.calibration.drafting` draws
the conclusions. Never makes a matrix of all queries by all keys."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from scalekv.kv.autocast import without_autocast
from scalekv.kv.schedule import Schedule

CHUNK_BYTES = 32 * 2**20
"""The most that the attention weights of one chunk of queries take, in float32: 49 queries of all
16 heads of infinity-2b at the last scale of 1M, 207 at that of 0.25M. What one chunk needs at once
is about three such tensors."""

TINY = 1e-30  # far below any sum of attention that matters, and no denormal

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LayerAttention:
    """One layer's attention at one scale, means over queries and sequences; (H, …), float32.

    Attributes:
        mass: (H, S) attention on each of the S = scale + 1 scales there are; a head's sum to 1.
        top: (H,) sum of the K' largest weights on tokens of earlier scales; 0 at scale 0.
        focus: (H,) that sum as a share of the query's attention on earlier scales; 0 at scale 0.
        entropy: (H,) of a query's attention over all tokens, in bits.
        variance: (H,) over the queries, of the attention that a token gets; summed over the tokens.
            0 where all queries look at the same tokens.
        change: (H,) see `key_change`; 0 at scale 0.
    """

    mass: Tensor
    top: Tensor
    focus: Tensor
    entropy: Tensor
    variance: Tensor
    change: Tensor


def layer_attention(
    q: Tensor,
    k: Tensor,
    schedule: Schedule,
    scale: int,
    top: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> LayerAttention:
    """Statistics of one attention call; the softmax is in float32 whatever the inputs are.

    Args:
        q: (B, H, L, D) queries of `scale` as attention uses them, softmax scale 1.
        k: (B, H, T, D) keys of all tokens up to and including that scale, in order.
        top: K', weights to add up; where fewer earlier tokens exist, all of them.
        chunk_bytes: see `CHUNK_BYTES`; a chunk is never less than one query.
    """
    sequences, heads, queries, _ = q.shape
    tokens, before = k.shape[2], schedule.before(scale)
    assert tokens == schedule.before(scale + 1), (
        f"{tokens} keys at scale {scale + 1} of {schedule}: statistics need the full cache"
    )
    received = torch.zeros(heads, tokens, dtype=torch.float32, device=q.device)
    largest, focus, entropy, variance = torch.zeros(4, heads, dtype=torch.float32, device=q.device)
    chunk = max(chunk_bytes // (4 * heads * tokens), 1)
    with torch.no_grad(), without_autocast(q):
        for sequence in range(sequences):
            keys = k[sequence].float().transpose(1, 2)
            sums_HT, squares_HT = torch.zeros_like(received), torch.zeros_like(received)
            for rows in q[sequence].split(chunk, dim=1):
                weights = (rows.float() @ keys).softmax(-1)  # (H, queries of the chunk, T)
                sums_HT += weights.sum(1)
                squares_HT += weights.square().sum(1)
                entropy += torch.special.entr(weights).sum((1, 2))
                if before:
                    earlier = weights[..., :before]
                    sums = earlier.topk(min(top, before), sorted=False).values.sum(-1)
                    largest += sums.sum(1)
                    # An attention so small that it is 0 in float32 is spread over nothing.
                    focus += (sums / earlier.sum(-1).clamp_min(TINY)).sum(1)
            received += sums_HT
            variance += (squares_HT - sums_HT.square() / queries).sum(1)
        parts = received.split(schedule.tokens[: scale + 1], dim=1)
        mass = torch.stack([part.sum(1) for part in parts], dim=1)
    count = sequences * queries
    return LayerAttention(
        mass / count,
        largest / count,
        focus / count,
        entropy / count / log(2),
        variance / count,
        key_change(k, schedule, scale),
    )


def key_change(k: Tensor, schedule: Schedule, scale: int) -> Tensor:
    """(H,) how far the keys of a map are from those of the map before it, brought to its size: 1
    less the mean cosine over tokens and sequences. 0 at scale 0, and where the keys are the same.

    Args:
        k: (B, H, T, D) keys of all tokens up to and including `scale`, in order.
    """
    change = torch.zeros(k.shape[1], dtype=torch.float32, device=k.device)
    if not scale:
        return change
    start, middle, end = (schedule.before(number) for number in (scale - 1, scale, scale + 1))
    with torch.no_grad(), without_autocast(k):
        for head in range(k.shape[1]):  # one at a time, which bounds the copies
            maps = k[:, head, start:middle].float().mT.unflatten(2, schedule.scales[scale - 1])
            grown = F.interpolate(maps, schedule.scales[scale], mode="bilinear").flatten(2).mT
            now = k[:, head, middle:end].float()
            change[head] = 1 - F.cosine_similarity(grown, now, dim=-1).mean()
    return change


@dataclass(frozen=True, eq=False)
class AttentionMeans:
    """Statistics of whole pictures. Scales and layers count from 0; K scales, N layers, H heads.

    Attributes:
        schedule: the pictures'.
        mass: (K target, K source, N, H) mean attention that the target scale's queries pay to the
            source scale: S-CAS, arXiv 2605.14877. 0 where the source comes later.
        own: (P, K, N, H) of each picture, attention on the scale's own map.
        top: (P, K, N, H) likewise, sum of the K' largest weights on earlier scales.
        focus: (P, K, N, H) likewise, that sum as a share of the attention on earlier scales.
        entropy: (K, N, H) of a query's attention, in bits.
        variance, change: (K, N, H) as of `LayerAttention`.
    """

    schedule: Schedule
    mass: Numbers
    own: Numbers
    top: Numbers
    focus: Numbers
    entropy: Numbers
    variance: Numbers
    change: Numbers

    @property
    def pictures(self) -> int:
        """How many pictures were measured."""
        return len(self.own)


class AttentionStatistics:
    """Gathers `AttentionMeans`, picture after picture: an observer for `Caches` under a policy
    that keeps everything.

    Holds a few numbers per layer, head and pair of scales, whatever the size of the pictures. A
    picture that was broken off does not count; pictures generated in one batch count as one.

    Args:
        schedule: of all pictures.
        layers: of the model.
        top: K', see `layer_attention`.
        halves: guidance halves in a call, 2 or 1.
        conditional: measure the first half of the sequences alone.
    """

    def __init__(
        self, schedule: Schedule, layers: int, top: int, *, halves: int, conditional: bool
    ) -> None:
        self.schedule = schedule
        self.layers = layers
        self.top = top
        self._parts = halves if conditional else 1
        self._now: dict[tuple[int, int], LayerAttention] = {}
        self._mass: Numbers | None = None  # sums over the pictures
        self._sums = np.zeros(0)  # of entropy, variance and change over the pictures: (3, K, N, H)
        self._each: list[Numbers] = []  # own, top, focus of each picture: (3, K, N, H)

    def __call__(
        self, layer: int, scale: int, schedule: Schedule, q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        """Measures one attention call; see `scalekv.kv.caches.caches.Observer`."""
        assert schedule == self.schedule, f"{schedule}, statistics are of {self.schedule}"
        if layer == 0 and scale == 0:
            self._now.clear()
        count = len(q) // self._parts
        self._now[scale, layer] = layer_attention(q[:count], k[:count], schedule, scale, self.top)
        if len(self._now) == len(schedule) * self.layers:
            self._end_picture()

    def means(self) -> AttentionMeans:
        """Of all whole pictures so far; at least one."""
        assert self._mass is not None, "no picture was measured"
        own, top, focus = np.stack(self._each, axis=1)
        entropy, variance, change = self._sums / len(self._each)
        return AttentionMeans(
            schedule=self.schedule,
            mass=self._mass / len(self._each),
            own=own,
            top=top,
            focus=focus,
            entropy=entropy,
            variance=variance,
            change=change,
        )

    def _end_picture(self) -> None:
        scales, heads = len(self.schedule), len(self._now[0, 0].top)
        mass = np.zeros((scales, scales, self.layers, heads))
        own, top, focus = np.zeros((3, scales, self.layers, heads))
        sums = np.zeros((3, scales, self.layers, heads))
        for (scale, layer), seen in self._now.items():
            mass[scale, : scale + 1, layer] = seen.mass.T.cpu().numpy()
            own[scale, layer] = mass[scale, scale, layer]
            top[scale, layer] = seen.top.cpu().numpy()
            focus[scale, layer] = seen.focus.cpu().numpy()
            means = torch.stack((seen.entropy, seen.variance, seen.change))
            sums[:, scale, layer] = means.cpu().numpy()
        self._now.clear()
        self._mass = mass if self._mass is None else self._mass + mass
        self._sums = self._sums + sums if self._each else sums
        self._each.append(np.stack((own, top, focus)))

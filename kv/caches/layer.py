"""One layer's held keys and values. The only owner of k and v; knows no budget or policy, but has
a place for the notes of one, so that they live exactly as long as what they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scalekv.kv.caches.held import Held, Like, Part, Plain, storage_bytes
from scalekv.kv.caches.storage import LayerStorage
from scalekv.kv.schedule import Schedule
from scalekv.kv.to_device import counting_up, whole_numbers


@dataclass
class Group:
    """Heads of a layer that hold equally many tokens.

    Attributes:
        heads: their numbers, in the order in which they lie.
        tokens: held per head.
        held: the tokens; None where there are none.
        positions: (B, h, tokens) int32 place of each in the picture, ascending; None: 0 to
            tokens - 1.
        notes: a policy's own tensors about the held tokens, (B, h, ...), forgotten with them.
    """

    heads: tuple[int, ...]
    tokens: int = 0
    held: Held | None = None
    positions: Tensor | None = None
    notes: dict[str, Tensor] = field(default_factory=dict)

    def positions_with(self, seen: int, new: int, total: int, like: Like) -> Tensor | None:
        """(B, h, tokens + new) positions once `new` tokens, from `seen` on, follow the held ones.

        None where nothing was dropped. `total` is of the picture; `like` is (B, H, L, D), for batch
        and device.
        """
        if self.positions is None and self.tokens == seen:
            return None
        appended = counting_up(total, like.device)[seen : seen + new]
        appended = appended.expand(like.shape[0], len(self.heads), new)
        if self.positions is None:
            return appended.contiguous()
        return torch.cat((self.positions, appended), dim=2)


@dataclass(frozen=True)
class Choice:
    """What some heads of a group keep.

    Attributes:
        group: the group's place in `LayerCache.groups`.
        heads: their numbers, all of one group.
        rows: (h,) int64 their places in the group; None: all of it, in order.
        part: the tokens, and which of them.
        room: tokens per head to make room for; at least the tokens kept.
        positions: (B, h, T) of the part's tokens before choosing; None: 0 to T - 1.
        notes: to keep with the tokens.
    """

    group: int
    heads: tuple[int, ...]
    rows: Tensor | None
    part: Part
    room: int
    positions: Tensor | None
    notes: dict[str, Tensor]

    @property
    def kept_positions(self) -> Tensor | None:
        """(B, h, n) int32 of the tokens kept; None: 0 to n - 1."""
        slots = self.part.slots
        if slots is None:
            return self.positions
        if self.positions is None:
            return slots.to(torch.int32)
        return self.positions.gather(2, slots)


class LayerCache:
    """Keys and values one layer holds between scales, with the position of each token.

    Heads that hold equally many tokens lie together; a head that holds none takes no memory. How
    they are stored is this class's own business: others see how many tokens there are, copy them
    out with `copy_to` and replace them with `keep`.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets everything and frees the tensors."""
        self.groups: list[Group] = []
        self._sequences = 0
        self._seen = 0
        self._ends: Tensor | None = None

    def begin(self, like: Like, schedule: Schedule, form: LayerStorage) -> None:
        """Ready for a picture whose keys are like (B, H, L, D); nothing is held yet."""
        self.reset()
        self._form = form
        self._sequences = like.shape[0]
        self.groups = [Group(tuple(range(like.shape[1])))]
        if form.by_source:
            ends = [schedule.before(scale + 1) for scale in range(len(schedule) - 1)]
            self._ends = whole_numbers(tuple(ends), like.device, torch.int32)

    @property
    def seen(self) -> int:
        """Tokens of the picture this layer has been given so far, held or dropped."""
        return self._seen

    @property
    def tokens(self) -> int:
        """Held tokens of the head that holds most."""
        return max((group.tokens for group in self.groups), default=0)

    @property
    def positions(self) -> Tensor | None:
        """(B, H, tokens) int32 place of each held token in the picture; None: 0 to tokens - 1.

        For a layer whose heads all hold equally many; else see each group's.
        """
        if not self.groups:
            return None
        assert self.all_together, "heads hold unequally many tokens"
        return self.groups[0].positions

    @property
    def kept(self) -> Tensor:
        """(B, H) int64 held tokens per sequence and head, on the CPU; (0, 0) before a picture."""
        row = torch.tensor(self.tokens_by_head, dtype=torch.int64, device="cpu")
        return row.expand(self._sequences, -1).clone() if self.groups else row.view(0, 0)

    @property
    def tokens_by_head(self) -> list[int]:
        """Held tokens of each head, the same in all sequences; empty before a picture."""
        by_head = {head: group.tokens for group in self.groups for head in group.heads}
        return [by_head[head] for head in sorted(by_head)]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the held keys and values occupy, read off their storage."""
        return sum(group.held.nbytes for group in self.groups if group.held is not None)

    @property
    def index_nbytes(self) -> int:
        """Bytes of memory that the positions and the notes occupy."""
        return sum(storage_bytes(group.positions, *group.notes.values()) for group in self.groups)

    def copy_to(self, group: Group, out: Tensor) -> None:
        """Writes k and v that a group holds into (2, B, h, tokens, D), in its dtype."""
        assert group.held is not None, "nothing is held"
        group.held.copy_to(out, self._sources(group))

    def grown(self, like: Like, room: int) -> Tensor | None:
        """(2, B, H, T, D): where attention can read all that is held and, behind it, tokens like
        (B, H, L, D), which are to be written there; None: not where tokens are held.

        There they are held in memory for `room` tokens a head, as attention computes, and heads
        hold equally many.
        """
        if not (self.all_together and self._form.reads_in_place(like)):
            return None
        group = self.groups[0]
        if not group.tokens:
            group.held = self._form.make(like, len(group.heads), room)
        if group.held is None or group.held.room != room:
            return None
        assert isinstance(group.held, Plain), "nothing else is read in place"
        return group.held.up_to(group.tokens + like.shape[2])

    def keep_sequences(self, count: int) -> None:
        """Forgets all but the first sequences, and frees their memory."""
        self._sequences = count
        if self._form.on_host:
            torch.cuda.synchronize()  # what is on its way to the host has to be there
        for group in self.groups:
            if group.held is not None:
                group.held = group.held.first(count)
            if group.positions is not None:
                group.positions = group.positions[:count].clone()
            group.notes = {name: note[:count].clone() for name, note in group.notes.items()}

    def of(self, group: Group, x: Tensor) -> Tensor:
        """A group's heads of (..., H, L, D), in the group's order."""
        if self.all_together:
            return x
        return x.index_select(-3, whole_numbers(group.heads, x.device))

    @property
    def all_together(self) -> bool:
        """Whether all heads are one group, in the order of their numbers."""
        return len(self.groups) == 1 and self.groups[0].heads == tuple(
            range(len(self.groups[0].heads))
        )

    def keep(self, choices: Sequence[Choice]) -> None:
        """Holds what was chosen instead of what was held, in place where its room is the same.

        Every head is in exactly one choice. Copies are taken, so that the tensors of the parts may
        be overwritten afterwards.
        """
        before = self.groups
        self._seen += choices[0].part.kv.shape[3] - choices[0].part.old
        alike: dict[tuple[int, int], list[Choice]] = {}
        for choice in choices:
            alike.setdefault((choice.part.tokens, choice.room), []).append(choice)
        self.groups = []
        for (tokens, room), members in alike.items():
            self.groups.append(self._grouped(before, tokens, room, members))

    def _grouped(self, before: list[Group], tokens: int, room: int, members: list[Choice]) -> Group:
        heads = tuple(head for choice in members for head in choice.heads)
        if not tokens:
            return Group(heads)
        held = self._room(before, room, heads, members)
        first = 0
        for choice in members:
            held.write(first, choice.part, before[choice.group].held)
            first += len(choice.heads)
        return Group(
            heads,
            tokens,
            held,
            _together(members, tokens),
            {
                name: torch.cat([choice.notes[name] for choice in members], dim=1)
                if len(members) > 1
                else note
                for name, note in members[0].notes.items()
            },
        )

    def _room(
        self, before: list[Group], room: int, heads: tuple[int, ...], members: list[Choice]
    ) -> Held:
        """Where a group is written: where it was if it fits exactly, else somewhere new."""
        group = before[members[0].group]
        alone = len(members) == 1 and members[0].rows is None
        if alone and group.held is not None and group.held.room == room:
            return group.held
        part = members[0].part
        if not self._form.by_source:
            # The workspace has all that was held, so the old goes before the new comes.
            for choice in members:
                before[choice.group].held = None
        return self._form.make(part.kv[0], len(heads), room)

    def _sources(self, group: Group) -> Tensor:
        """The scale each held token of a group is from, (B, h, n) or (1, 1, n) int64."""
        assert self._ends is not None or not self._form.by_source
        if self._ends is None:
            return torch.empty(0, dtype=torch.int64, device="cpu")  # not looked at
        places = group.positions
        if places is None:
            places = counting_up(group.tokens, self._ends.device).view(1, 1, -1)
        return torch.bucketize(places, self._ends, right=True)


def _together(members: list[Choice], tokens: int) -> Tensor | None:
    """Positions of a group from those of its parts."""
    positions = [choice.kept_positions for choice in members]
    known = next((x for x in positions if x is not None), None)
    if known is None or len(members) == 1:
        return known
    everything = counting_up(tokens, known.device)
    return torch.cat(
        [
            everything.expand(known.shape[0], len(choice.heads), -1) if x is None else x
            for choice, x in zip(members, positions, strict=True)
        ],
        dim=1,
    )

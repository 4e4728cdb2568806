"""One model under CUDA graphs: the logits that a `Runner` gives, and a whole draft in one go.

A forward of a small model is hundreds of kernels, each shorter than its launch. A graph launches all of them at once, as long
as shapes and addresses stay the same. Hence:

- the cache is static;
- a window is padded up to one of a few widths;
- inputs and outputs have tensors of their own.

A draft stays on the device: each forward is fed the token that was sampled just before, and the host waits once, at the end.
The target scores a window in one forward, so the host waits once there too: the softmax of the rows is launched while the
forward still runs.

Only `CudaCapture` needs CUDA. Without it the same functions run uncaptured, and so they are tested. Source: "CUDA Graphs" in
torch's notes on CUDA semantics.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel

from specdec.effects import StopRule
from specdec.runtime.branches import Branches, Feed
from specdec.runtime.cache import LENGTH, CachePlan, StaticCache, padded, why_not_plain, why_not_static
from specdec.runtime.runner import Forward, Runner, SequenceRunner
from specdec.sampling import NOT_A_TOKEN, Sampler, greedy_choice, not_a_distribution, picked
from specdec.tokens import Tokens

WIDTHS = (1, 2, 4, 8, 16, 32)
"""Widths that have a graph, captured when first needed. Wider windows are prompts, and run without one."""

DRAFT_ROOM = 16
"""Tokens that a draft's tensors hold at first."""

WARM_UPS = 3
"""Runs before a capture, as torch asks, for libraries to set themselves up."""

DeviceWork: TypeAlias = Callable[[], None]
"""Launches the same kernels on the same tensors in every call. A capture calls it a few times, before its results are used."""


class CudaCapture:
    """Turns work on a device into CUDA graphs. All graphs share memory: they run one after another and keep nothing in it."""

    _one_at_a_time = threading.Lock()  # a process may capture once at a time, and lanes have threads

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: DeviceWork) -> DeviceWork:
        """The same work, by replaying a graph."""
        with self._one_at_a_time, torch.cuda.device(self._device):
            caller = torch.cuda.current_stream()
            self._stream.wait_stream(caller)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.stream(self._stream):  # `torch.cuda.graph` does not leave it when a capture fails
                for _ in range(WARM_UPS):
                    work()
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    work()
            caller.wait_stream(self._stream)
        return graph.replay


@dataclass(frozen=True)
class Replay:
    """What a capture made of `work`. It keeps the work, since a graph reads tensors by their addresses and keeps none alive."""

    work: DeviceWork
    replayed: DeviceWork

    def __call__(self) -> None:
        self.replayed()


@dataclass
class CapturedForward:
    """A forward over a fixed number of tokens. `inputs` are their ids, then the position of the first: shape (1, width + 1)."""

    inputs: Tensor
    logits: Tensor
    run: DeviceWork


@dataclass
class DraftTensors:
    """A draft on the device.

    `uniforms`     to sample by
    `tokens`, `q`  drafted so far
    `drafted`      how many these are, shape (1,)
    `pick`         samples one token more
    """

    sampler: Sampler
    uniforms: Tensor
    tokens: Tensor
    q: Tensor
    drafted: Tensor
    pick: DeviceWork


Capture: TypeAlias = Callable[[DeviceWork], DeviceWork]
"""Turns work into a graph that does the same, as long as the tensors of the work live. `CudaCapture` is one."""


class GraphRunner(SequenceRunner):
    """Answers what a `Runner` does, and whole drafts.

    Without a `capture`, the same work runs uncaptured. `why_eager` says why no graph is replayed.
    """

    def __init__(self, model: PreTrainedModel, vocabulary: int, capture: Capture | None = None, length: int = LENGTH) -> None:
        super().__init__(model, vocabulary)
        self.why_eager = None if capture else "no capture was given"
        self._forward = Forward(model)
        self._capture = capture
        self._length = length
        self.forget()

    def forget(self) -> None:
        """Free the cache and all graphs."""
        self._held = Tokens()
        self._cache = StaticCache(self.model, self._length)
        self._drop_captured()

    def _drop_captured(self) -> None:
        self._forwards: dict[int, CapturedForward] = {}
        self._draft: DraftTensors | None = None

    @torch.inference_mode()
    def draft(
        self, context: Sequence[int], length: int, sampler: Sampler, uniforms: Sequence[float]
    ) -> tuple[list[int], Tensor | None]:
        """Continue `context` by `length` tokens. They are sampled by `length` uniforms as by `inverted`; greedily, by none.

        Returns the tokens and their rows `q`, shape (tokens, vocabulary), `None` when greedy. A row that is no distribution
        ends the draft; the tokens before it are kept. Raises `ModelError` when there are none. Ask `why_stepwise` before.
        """
        tokens = Tokens.of(context)
        logits = self.logits(tokens, 1)
        self._reserve(len(tokens) + length)
        forward, draft = self._forward_of(1), self._draft_tensors(sampler, length)
        forward.logits.copy_(logits)
        forward.inputs.fill_(len(tokens) - 1)  # a pick sets the token and moves on from this position
        draft.uniforms[: len(uniforms)].copy_(torch.tensor(uniforms, dtype=torch.float64), non_blocking=True)
        draft.drafted.zero_()
        for number in range(length):
            if number:
                forward.run()
            draft.pick()
        self._wait()  # here, and nowhere else
        drafted: list[int] = draft.tokens[:length].tolist()
        self._held = tokens + drafted[:-1]
        if NOT_A_TOKEN in drafted:
            self.forget()  # the cache may hold NaN, and no mask hides that
            del drafted[drafted.index(NOT_A_TOKEN) :]
            if not drafted:
                raise not_a_distribution()
        return drafted, None if sampler.greedy else draft.q[: len(drafted)].clone()

    def _wait(self) -> None:
        """Wait for what was launched.

        A copy to the host would wait too, but copies of other threads seem to wait for it then: on an H100, a target's greedy
        answer came only when the whole draft was there (`benchmarks/results/gpu_nvidia_h100_80gb_hbm3_2026-11-27.json`).
        """
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def branches(self, branches: Branches) -> Feed:
        self._reserve(branches.end)
        mask = branches.mask(self.model.dtype, self.device)[None, None]
        prefixes = torch.tensor([branches.prefixes], device=self.device)
        width, depth = len(branches.prefixes), count()

        @torch.inference_mode()
        def feed(tokens: Sequence[Sequence[int]]) -> list[Tensor]:
            first = branches.start + next(depth) * width
            cells = torch.arange(first, first + width, device=self.device).unsqueeze(0)
            positions = prefixes + (first - branches.start) // width
            where = self._cache.beside(positions, cells, mask[..., : first + width])
            ids = torch.tensor([list(tokens[0])], device=self.device)
            return [self._forward(input_ids=ids, **where)[0, :, : self.vocabulary]]

        return feed

    def _trim(self, keep: int) -> None:
        self._held = self._held.first(keep)

    @torch.inference_mode()
    def _feed(self, tokens: Sequence[int], positions: int) -> Tensor:
        start, width = len(self._held), next((width for width in WIDTHS if width >= len(tokens)), None)
        self._reserve(start + (width or len(tokens)))
        if width is None:
            token_positions = torch.arange(start, start + len(tokens), device=self.device).unsqueeze(0)
            ids = torch.tensor([tokens], device=self.device)
            logits = self._uncaptured(ids, token_positions, positions, visible=start + len(tokens))
        else:
            forward = self._forward_of(width)
            forward.inputs.copy_(torch.tensor([[*padded(tokens, width), start]]), non_blocking=True)
            forward.run()
            logits = forward.logits[len(tokens) - positions : len(tokens)].clone()
        self._held += tokens
        return logits

    def _uncaptured(self, ids: Tensor, token_positions: Tensor, kept: int, visible: int | None = None) -> Tensor:
        """Logits after the last `kept` of these tokens, shape (kept, vocabulary)."""
        logits = self._forward(input_ids=ids, logits_to_keep=kept, **self._cache.at(token_positions, visible))
        return logits[0, -kept:, : self.vocabulary]

    def _reserve(self, length: int) -> None:
        """Let the cache hold `length` tokens. If it grows, drop what was captured on its old buffers."""
        grown = self._cache.length
        while grown < length:
            grown *= 2
        if grown > self._cache.length:
            self._drop_captured()
            try:
                self._cache.grow(grown)
            except BaseException:  # out of memory, or Ctrl-C: some layers may have grown
                self.forget()
                raise

    def _forward_of(self, width: int) -> CapturedForward:
        if width not in self._forwards:
            inputs = torch.zeros(1, width + 1, dtype=torch.long, device=self.device)
            inputs[:, -1].fill_(len(self._held))  # a capture runs this work, and must not overwrite what the cache holds
            offsets = torch.arange(width, device=self.device)
            logits = torch.zeros(width, self.vocabulary, dtype=self.model.dtype, device=self.device)

            def run() -> None:
                logits.copy_(self._uncaptured(inputs[:, :-1], inputs[:, -1:] + offsets, width))

            self._forwards[width] = CapturedForward(inputs, logits, self._captured(run))
        return self._forwards[width]

    def _draft_tensors(self, sampler: Sampler, length: int) -> DraftTensors:
        if self._draft is None or self._draft.sampler.sampling != sampler.sampling or len(self._draft.tokens) < length:
            self._draft = self._new_draft(sampler, max(length, DRAFT_ROOM))
        return self._draft

    def _new_draft(self, sampler: Sampler, room: int) -> DraftTensors:
        forward = self._forward_of(1)
        uniforms = torch.zeros(room, dtype=torch.float64, device=self.device)
        tokens = torch.zeros(room, dtype=torch.long, device=self.device)
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        q = torch.zeros(0 if sampler.greedy else room, self.vocabulary, dtype=dtype, device=self.device)
        drafted = torch.zeros(1, dtype=torch.long, device=self.device)

        def pick() -> None:
            scores = sampler.processed(forward.logits, ())
            if sampler.greedy:
                token = greedy_choice(scores)
            else:
                row = scores.softmax(-1)
                token = picked(row, uniforms.index_select(0, drafted))
                q.index_copy_(0, drafted, row)
            tokens.index_copy_(0, drafted, token)
            forward.inputs[:, 0].copy_(token.clamp(min=0))
            forward.inputs[:, 1].add_(1)
            drafted.add_(1)

        return DraftTensors(sampler, uniforms, tokens, q, drafted, self._captured(pick))

    def _captured(self, work: DeviceWork) -> DeviceWork:
        if self._capture is None:
            return work
        try:
            return Replay(work, self._capture(work))
        except RuntimeError as error:
            self._capture = None
            self.why_eager = f"a CUDA graph could not be captured ({str(error).partition(chr(10))[0]})"
            return work


def new_runner(
    model: PreTrainedModel, vocabulary: int, forward: Forward, *, eager: bool, plan: CachePlan | None = None
) -> SequenceRunner:
    """The runner for `model`: one that replays CUDA graphs where possible and not `eager`, else one that calls `forward`."""
    why_eager = why_no_graphs(model, plan)
    if why_eager is None and not eager:
        return GraphRunner(model, vocabulary, CudaCapture(model.device))
    runner = Runner(model, vocabulary, forward, plan)
    if model.device.type == "cuda" and not eager:
        runner.why_eager = why_eager
    return runner


def why_no_graphs(model: PreTrainedModel, plan: CachePlan | None = None) -> str | None:
    """Why `model` cannot run under CUDA graphs, in words that follow "because"; `None` when it can."""
    if model.device.type != "cuda":
        return f"{model.device.type} has no CUDA graphs"
    failed = plan is not None and not plan.batched
    probed = f"{model.config.model_type} was probed on a cache of static shapes, and failed" if failed else None
    return why_not_plain(model) or why_not_static(model) or probed


def why_stepwise(sampler: Sampler, stop: StopRule | None) -> str | None:
    """Why a draft must come to the host after each token, in words that follow "because"; `None` when it need not."""
    if stop is not None:
        return "its stop rule looks at each token"
    if not sampler.context_free:
        return "a logits processor looks at the tokens before"
    return None

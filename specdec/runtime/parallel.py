"""A target that transformers splits over several processes, called ranks (tensor parallelism). torchrun starts them.

Each rank holds a share of every weight, so a forward needs all ranks at once. Rank 0 is the caller: it runs the user's script,
the draft, sampling and verification. The other ranks serve. They repeat the calls of rank 0's runner with the same contexts,
hence the same forwards in the same order. They sample nothing, and drop their logits.

Calls go through a process group of their own, which is gloo's whatever the model's device is. The end of a process closes its
connections, so all other ranks fail at once. A rank that hangs is waited for `PATIENCE_SECONDS`.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d
from transformers import PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig

from specdec.errors import InputError, ModelError, PairError
from specdec.runtime.admission import admit
from specdec.runtime.branches import Branches, Feed
from specdec.runtime.cache import CachePlan
from specdec.runtime.runner import Forward
from specdec.runtime.sequences import BatchRunner, new_batch_runner
from specdec.runtime.vocabulary import Wanted

PATIENCE_SECONDS = 60.0
"""How long a rank waits for the others within a forward."""

IDLE = timedelta(days=365)
"""How long a serving rank waits for the next call. Nothing is asked between two decodes, which may be hours apart."""

CHUNK = 1 << 13
"""Bytes of the first message of a call. A second one brings what does not fit."""

HEADER = 8
"""Bytes that hold a call's length."""

LOST = "a rank was lost"
"""Why ranks cannot be asked any more, when one of them failed in a call."""

T = TypeVar("T")


def split_options() -> dict[str, Any]:
    """Options of `from_pretrained` that split a model over all ranks. Raises `InputError` if this process is alone."""
    ranks = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))
    if ranks < 2:
        raise InputError(
            "tensor parallelism splits a target over several processes, and this one is alone: "
            "start them by torchrun --nproc-per-node=2, with as many as there are GPUs"
        )
    return {"distributed_config": DistributedConfig(tp_size=ranks)}


def serves() -> bool:
    """Whether this process is a rank above 0."""
    return (dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))) > 0


def is_split(model: object) -> bool:
    """Whether each rank holds only a share of the weights."""
    sizes: list[int | None] = [getattr(model, "tp_size", None), getattr(model, "fsdp_size", None)]
    return any(size is not None and size > 1 for size in sizes)


def ranks_of(model: PreTrainedModel) -> Ranks | None:
    """The ranks of a target; `None` for a model that is whole.

    On ranks above 0 this call does not return. They serve until rank 0 closes its pair or ends, then they leave the process
    with exit code 0. Raises `PairError` for a model that cannot be served so.
    """
    if not is_split(model):
        return None
    require_shareable(model)
    patience = timedelta(seconds=PATIENCE_SECONDS)
    group = dist.new_group(backend="gloo", timeout=IDLE if serves() else patience)
    mesh: Any = model._device_mesh  # pyright: ignore[reportPrivateUsage]
    distributed_c10d._set_pg_timeout(patience, mesh.get_group("tp"))  # pyright: ignore[reportPrivateUsage]
    if serves():
        serve(model, group)
    return Ranks(model, group)


def require_shareable(model: PreTrainedModel) -> None:
    """Refuse a model that is split in another way, or for the second time, and heads that the ranks cannot share."""
    name, ranks = model.name_or_path or "the target", model.tp_size or 1
    if ranks != dist.get_world_size():
        raise PairError(f"{name} is not split by tensor parallelism alone: load it by Pair.load(..., tensor_parallel=True)")
    if model in Ranks.led:
        raise PairError(f"the ranks of {name} serve one pair only, and had one before: keep that pair")
    config: Any = model.config.get_text_config(decoder=True)
    heads = {"q_proj": config.num_attention_heads, "k_proj": getattr(config, "num_key_value_heads", None)}
    for rule, style in (model.tp_plan or {}).items():
        kind = rule.rpartition(".")[2]
        if style == "colwise" and kind in heads and (heads[kind] or 0) % ranks:
            which = "key" if kind == "k_proj" else "attention"
            raise PairError(
                f"{name} has {which} heads ({heads[kind]}) that {ranks} ranks cannot share evenly: start fewer ranks"
            )


class Ranks:
    """All ranks of one target, as rank 0 sees them.

    `count`   how many there are
    `ended`   why they cannot be asked any more; empty while they can

    A forward that stopped halfway would leave the other ranks waiting in it, so a signal that comes during a forward counts
    after it. When torchrun loses a rank, it sends SIGTERM to the others. Here that becomes the `ModelError` to which `decode`
    adds its results. Once the loss is known, SIGTERM is ignored, so that the caller has time to keep them; once more after
    `close`, which may come before it.
    """

    led: ClassVar[weakref.WeakSet[PreTrainedModel]] = weakref.WeakSet()
    """Models whose ranks serve a pair, or did."""

    def __init__(self, model: PreTrainedModel, group: Any) -> None:
        self._name = model.name_or_path or "the target"
        self._group = group
        self.count = dist.get_world_size(group)
        self.ended = ""
        self._guarding = self._at_work = False
        self._held: list[int] = []
        self._usual: dict[int, Any] = {}
        self.led.add(model)
        model.register_forward_pre_hook(self._guard)
        if threading.current_thread() is threading.main_thread():
            self._usual = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}

    def new_runner(
        self,
        model: PreTrainedModel,
        vocabulary: int,
        size: int,
        forward: Forward,
        *,
        eager: bool,
        plan: CachePlan | None = None,
    ) -> BatchRunner:
        """A runner for `size` sequences whose forwards all ranks share; like `new_batch_runner`. The last one cannot go on."""
        self._guarding = True
        own = Forward(model, f"its weights are split over {self.count} ranks")

        def new(size: int) -> BatchRunner:
            return new_batch_runner(model, vocabulary, size, own, eager=True, plan=plan)

        return SplitRunner(self, self.ask("new", new, size))

    def ask(self, method: str, here: Callable[..., T], *arguments: Any) -> T:
        """Call a method of the serving ranks' runner, and `here` on this rank. Raises `ModelError` when a rank is lost."""
        if self.ended:
            raise ModelError(f"{self._name} cannot answer any more, since {self.ended}: start all ranks again")
        self._at_work = True
        try:
            send(self._group, (method, arguments))
            return here(*arguments)
        except Exception as error:  # the other ranks may be anywhere in the forward now
            self.ended = LOST
            raise ModelError(
                f"{self._name} failed on its {self.count} ranks ({reason(error)}): start all of them again"
            ) from error
        finally:
            self._at_work = False
            while self._held:
                self._deliver(self._held.pop(0))

    def close(self) -> None:
        """Let the other ranks end, and give the signals back. After a loss, the SIGTERM that torchrun sends may come yet."""
        if not self.ended:
            self.ended = "its pair was closed"
            with suppress(RuntimeError):  # they have ended already
                send(self._group, None)
        given_back, self._usual = self._usual, {}
        for number, usual in given_back.items():
            once = number == signal.SIGTERM and self.ended == LOST
            signal.signal(number, partial(_ignored_once, usual) if once else usual)

    def _guard(self, *_: Any) -> None:
        """Refuse a forward of this rank alone: it would wait for the others."""
        if self._guarding and not self._at_work:
            raise PairError(f"{self._name} is split over {self.count} ranks, which answer to their pair only: decode with it")

    def _on_signal(self, number: int, _: Any) -> None:
        if self._at_work:
            self._held.append(number)
        else:
            self._deliver(number)

    def _deliver(self, number: int) -> None:
        usual = self._usual[number]
        if number == signal.SIGTERM and self.ended:
            return
        if callable(usual):
            usual(number, None)
        elif usual == signal.SIG_DFL:
            self.ended = "it was told to end"
            raise ModelError(
                f"{self._name} was told to end (SIGTERM), as torchrun does when a rank is lost: start all of them again"
            )


def _ignored_once(usual: Any, number: int, _: Any) -> None:
    """Handles a signal by giving it back to its usual handler."""
    signal.signal(number, usual)


class SplitRunner(BatchRunner):
    """Rank 0's runner. All other ranks repeat its calls."""

    def __init__(self, ranks: Ranks, own: BatchRunner) -> None:
        super().__init__(own.model, own.vocabulary)
        self._ranks, self._own = ranks, own

    @property
    def why_eager(self) -> str | None:
        return self._own.why_eager

    def logits(self, wanted: Sequence[Wanted]) -> list[Tensor]:
        return self._ranks.ask("logits", self._own.logits, [tuple(one) for one in wanted])

    def branches(self, forks: Sequence[Branches]) -> Feed:
        raise PairError("a model that is split over ranks drafts no forks: draft with one that is whole")

    def forget(self) -> None:
        if not self._ranks.ended:
            self._ranks.ask("forget", self._own.forget)


def serve(model: PreTrainedModel, group: Any) -> NoReturn:
    """Repeat on this rank what rank 0 asks, until rank 0 closes its pair or ends. Then leave the process."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for rank 0
    model.eval()
    plan = admit(model)  # as rank 0 does now
    runner: BatchRunner | None = None
    while True:
        try:
            call = receive(group)
        except RuntimeError:  # rank 0 has ended
            sys.exit(0)
        if call is None:
            sys.exit(0)
        method, arguments = call
        try:
            if method == "new":
                [size], vocabulary = arguments, model.config.get_text_config(decoder=True).vocab_size
                runner = new_batch_runner(model, vocabulary, size, Forward(model), eager=True, plan=plan)
            else:
                getattr(runner, method)(*arguments)
        except RuntimeError as error:
            sys.exit(f"specdec: rank {dist.get_rank()} ends, since a forward failed ({reason(error)})")


def reason(error: Exception) -> str:
    """What torch says, without the file and the advice that gloo puts around it."""
    return re.sub(r"^\[\S+\] ", "", str(error).partition("\n")[0]).partition(". ")[0][:160]


def send(group: Any, call: Any) -> None:
    """Rank 0's side of `receive`."""
    message = bytearray(HEADER) + pickle.dumps(call)
    message[:HEADER] = len(message).to_bytes(HEADER, "little")
    whole = torch.frombuffer(message.ljust(CHUNK, b"\0"), dtype=torch.uint8)
    dist.broadcast(whole[:CHUNK], 0, group)
    if len(message) > CHUNK:
        dist.broadcast(whole[CHUNK:], 0, group)


def receive(group: Any) -> Any:
    """What rank 0 has sent. Raises `RuntimeError` when rank 0 is gone."""
    first = torch.empty(CHUNK, dtype=torch.uint8)
    dist.broadcast(first, 0, group)
    message = first.numpy().tobytes()
    size = int.from_bytes(message[:HEADER], "little")
    if size > CHUNK:
        rest = torch.empty(size - CHUNK, dtype=torch.uint8)
        dist.broadcast(rest, 0, group)
        message += rest.numpy().tobytes()
    return pickle.loads(message[HEADER:size])

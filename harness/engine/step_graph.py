"""The decoding step of a batch as a CUDA graph: its kernels are launched all at once.

Launching takes long. At LLaVA-1.5-7B's shape an H100 is busy for 14 ms of a step of 64 rows, and
the host needs 29 ms for the step's 1,352 launches. A graph can be replayed only with the same
shapes and addresses. So a fixed step (:class:`FixedStep`) attends over the whole capacity of the
cache behind a mask, and counts its position on the device. When rows leave the batch or the cache
grows, the graph is dropped and a new one captured (:class:`StepGraphs` decides when).

Embedding and output layer stay outside: their few launches wait in the queue while the graph runs,
and a hook of the output layer goes on working."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from harness.engine.backbone import LeanLlama
from harness.engine.kv_cache import KVCache, additive_mask
from harness.models.device_memory import out_of_memory

MIN_PLAIN_STEPS = 4
"""Steps without a graph after each change of the batch. A capture takes about two plain steps (60
ms at 7B's shape) and each replay saves 15 ms, so it pays after four. Waiting as long as that never
costs more than twice the best choice, however soon the next change comes."""

MIN_STEPS_LEFT = 8
"""Steps that must be left until the answers' limit or the end of the cache."""


class FixedStep:
    """A decoding step of fixed shapes and addresses. It gives what a plain step gives, up to
    rounding.

    ``mask`` (B, 1, 1, T) covers the first suffix positions; those up to ``used`` are seen, those
    behind are hidden until they are written. ``lengths`` (B,) are the new tokens' positions; the
    step itself adds one. ``x`` has the shape of the step's input."""

    def __init__(
        self,
        text: LeanLlama,
        cache: KVCache,
        x: Tensor,
        lengths: Tensor,
        mask: Tensor | None,
        used: int,
    ) -> None:
        self.text, self.cache, self.lengths = text, cache, lengths
        self.x = torch.empty_like(x)
        self.position = torch.tensor([used], device=x.device)
        unwritten = torch.arange(cache.capacity, device=x.device) >= used
        self.mask = additive_mask(unwritten, x.dtype).repeat(len(x), 1, 1, 1)
        if mask is not None:
            self.mask[..., : mask.shape[-1]] = mask
        for layer in cache.layers:
            # Masked positions must be finite all the same.
            layer[:, :, :, cache.offset + used :] = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.hidden = self.x
        """What the graph computes, overwritten by each replay."""
        self.rotary_table = text.rotary_table
        """Keeps the table of rotations that the graph reads."""

    def forward(self) -> Tensor:
        """The hidden states (B, 1, width) of ``x``, with no transfer from the host."""
        self.mask.index_fill_(3, self.position, 0.0)
        hidden = self.text(
            self.x, self.lengths[:, None], self.cache, self.position, self.mask, segments=1
        )
        self.lengths.add_(1)
        self.position.add_(1)
        return hidden

    def warm_up(self) -> Tensor:
        """One step on the stream that captures: libraries take their workspaces and choose their
        kernels now, as they cannot within a capture."""
        device = self.x.device
        stream = side_stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            hidden = self.forward()
        self.rotary_table = self.text.rotary_table
        torch.cuda.synchronize(device)
        return hidden

    def capture(self) -> None:
        """Capture the next steps. Each graph has a memory pool of its own. The pool of a dropped
        graph goes back to the device here or when memory runs out: torch does not take a pool
        again whose graphs are all gone."""
        torch.cuda.empty_cache()  # a capture cannot use memory that is only cached
        graph = torch.cuda.CUDAGraph()
        # Not torch.cuda.graph: after an error it leaves the side stream selected. Threads that
        # read images meanwhile do not end the capture.
        with torch.cuda.stream(side_stream(self.x.device)):  # selects the device, too
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.hidden = self.forward()
            finally:
                graph.capture_end()
        self.graph = graph


class StepGraphs:
    """An engine's captures: whether and when."""

    failure: ClassVar[str] = ""
    """Why a capture failed. From then on the process decodes without graphs."""

    def __init__(self, device: torch.device) -> None:
        self.can_capture = device.type == "cuda"
        self.enabled = self.can_capture
        """For tests and benches: False decodes without graphs; True on the CPU computes fixed steps
        without capturing them."""
        self.captured, self.steps = 0, 0
        """Captures, and fixed steps, captured or not."""

    @property
    def used(self) -> bool:
        return self.enabled and not StepGraphs.failure

    def should_capture(self, plain_steps: int, steps_left: int) -> bool:
        """Whether to capture: ``plain_steps`` since the last change, at most
        ``steps_left`` to come."""
        return self.used and plain_steps >= MIN_PLAIN_STEPS and steps_left >= MIN_STEPS_LEFT

    def run(self, step: FixedStep, x: Tensor) -> Tensor:
        """The step's hidden states (B, 1, width), valid until its next run. The first run captures.

        Raises:
            torch.OutOfMemoryError: memory ran out within the capture, which has been ended.
        """
        step.x.copy_(x)
        self.steps += 1
        if step.graph is not None:
            step.graph.replay()
            return step.hidden
        if not self.can_capture:
            return step.forward()
        hidden = step.warm_up()
        try:
            step.capture()
            self.captured += 1
        except RuntimeError as error:
            # An error within a capture can make its end fail, too.
            memory = next(filter(out_of_memory, error_chain(error)), None)
            if memory is not None:
                raise memory from None
            StepGraphs.failure = " ".join(str(list(error_chain(error))[-1]).split())[:300]
            logging.getLogger(__name__).warning(
                "Decoding goes on without CUDA graphs, about half as fast, because a capture"
                " failed: %s",
                StepGraphs.failure,
            )
        return hidden


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and the errors during whose handling it was raised, the first one last."""
    while error is not None:
        yield error
        error = error.__context__


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of all captures: a library keeps a workspace for each stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own

"""Batches of text to token ids, in order, some of them worked out ahead: by threads, or by processes.

    for batch, ids in encoded(batches(stream), tokenizer, np.dtype("<u2"), num_proc=4):
        ...

`tokenizers` uses all cores by itself; two threads keep them busy while ids become numbers of numpy's. Processes pay
where there are many cores.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import numpy as np

from headwise.distributed.processes import end_with_parent
from headwise.errors import RunError
from headwise.stream import length
from headwise.tokenizer import Tokenizer

Batch = list[str | None]
THREADS = 2
worker: Tokenizer  # of a process that encodes


def encoded(
    batches: Iterable[Batch], tokenizer: Tokenizer, dtype: np.dtype, num_proc: int | None, start: int = 0
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Each batch of pieces and its token ids; the first one's text is `start` characters into the whole."""
    encode: Callable[..., np.ndarray] = encode_in_process if num_proc else tokenizer.encode_batch
    waiting: deque[tuple[Batch, Future[np.ndarray]]] = deque()
    pool = processes(tokenizer, num_proc) if num_proc else ThreadPoolExecutor(THREADS)
    try:
        for batch in batches:
            waiting.append((batch, pool.submit(encode, batch, dtype, start)))
            start += length(batch)
            if len(waiting) > 2 * (num_proc or THREADS):
                done, ids = waiting.popleft()
                yield done, ids.result()
        for done, ids in waiting:
            yield done, ids.result()
    except BrokenProcessPool as error:
        why = "was killed, for want of memory perhaps; give fewer"
        raise RunError(f"a process of data.num_proc={num_proc} {why}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def processes(tokenizer: Tokenizer, count: int) -> Executor:
    """Processes that have the tokenizer, and end when this one does."""
    context = get_context("spawn")  # a fork would copy locks that threads of ours may hold
    return ProcessPoolExecutor(count, context, initializer=begin, initargs=(tokenizer.to_json(),))


def begin(tokenizer: str) -> None:
    """What a process does first."""
    import signal

    global worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core is this process's part
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    end_with_parent()
    worker = Tokenizer.from_json(tokenizer)


def encode_in_process(batch: Batch, dtype: np.dtype, start: int) -> np.ndarray:
    """Tokenizer.encode_batch, in a process that has begun."""
    return worker.encode_batch(batch, dtype, start)

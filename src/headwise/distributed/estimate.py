"""The cost of a run, known before it starts: parameters, tokens, operations; memory and time with estimate=true. Each
function whose name ends in _line or _lines returns text to print."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from headwise.model.gpt import GPT, next_token_loss
from headwise.training.optimizers import make_optimizer
from headwise.training.resolve import DTYPES, RunConfig


def plan_lines(run: RunConfig, model: GPT, counts: dict[str, int]) -> list[str]:
    """Describe what the run will do. `counts` are the tokens of each split."""
    step = run.tokens_per_step
    tokens, parameters, flops = step * run.trainer.max_steps, model.n_parameters(), model.flops_per_token()
    return [
        f"parameters       {parameters:,}; {tokens / parameters:.3g} tokens to train on for each one",
        f"text             {counts['train']:,} training and {counts['val']:,} validation tokens",
        f"tokens           {step:,} a step, {tokens:,} in all: the text {tokens / counts['train']:.3g} times over",
        f"arithmetic       {flops / 1e6:.4g} MFLOP a token, {flops * tokens:.3g} FLOP in all",
    ]


def device_line(run: RunConfig, device: torch.device, peak: float) -> str:
    """Describe the run's devices. `peak` is the rate in FLOP/s that matmul_peak measured."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    how = run.trainer.precision + (", compiled" if run.compile else "")
    speed = f"{peak / 1e9:,.0f} GFLOP/s in a matrix product"
    return f"device           {run.n_devices} x {device.type}, {kind}, {how}; {speed}"


def cost_lines(run: RunConfig, model: GPT, device: torch.device) -> list[str]:
    """Describe the memory and time of the run, measured in a few steps on random tokens with a copy of the model."""
    model = copy.deepcopy(model).to(device).train()
    optimizer = make_optimizer(model, run.optimizer)
    seconds, activations = measure_steps(run, model, optimizer, device)
    is_sharded = run.n_devices > 1 and run.trainer.strategy == "fsdp"
    shards = run.n_devices if is_sharded else 1
    weights = size_of(model.parameters()) / shards
    state = sum(size_of(values.values()) for values in optimizer.state.values()) / shards
    gathered = 2 * gathered_at_once(model) if is_sharded else 0  # with their gradients
    total, minutes = 2 * weights + state + gathered + activations, seconds * run.trainer.max_steps / 60
    each = " on each device" if run.n_devices > 1 else ""
    return [
        f"memory           {total / 1e6:,.0f} MB{each}: weights and gradients "
        f"{2 * weights / 1e6:,.0f}, optimizer {state / 1e6:,.0f}, "
        + (f"gathered at once {gathered / 1e6:,.0f}, " if is_sharded else "")
        + f"activations {activations / 1e6:,.0f}; the program itself takes about 500 more",
        f"time             {seconds * 1000:,.0f} ms a step, {minutes:,.1f} minutes of steps in all"
        + (", before compiling" if run.compile else "")
        + (", without the communication" if run.n_devices > 1 else ""),
        *([communication_line(run, model)] if run.n_devices > 1 else []),
    ]


def measure_steps(
    run: RunConfig, model: GPT, optimizer: torch.optim.Optimizer, device: torch.device, steps: int = 3
) -> tuple[float, int]:
    """Return the seconds of the fastest of a few steps, and the bytes of activations in a forward pass."""
    dtype = DTYPES[run.trainer.precision]
    mixed = torch.autocast(device.type, dtype, enabled=run.trainer.precision == "bf16-mixed")
    if run.trainer.precision.endswith("true"):
        model.to(dtype)
    shape = (run.data.batch_size, run.model.block_size + 1)
    ids = torch.randint(run.model.vocab_size, shape, device=device)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved, activations, times = dict[int, int](), 0, []

    def record(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for _ in range(steps):
        start = time.perf_counter()
        for _ in range(run.accumulate):
            saved.clear()
            with mixed, torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
                loss = next_token_loss(model(ids[:, :-1]), ids[:, 1:])
            activations = sum(size for pointer, size in saved.items() if pointer not in weights)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times), activations


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def gathered_at_once(model: GPT) -> int:
    """Return the bytes of the weights that fsdp holds whole at one time, at most: those outside of the blocks, the
    block that computes and the next."""
    blocks = [size_of(block.parameters()) for block in model.blocks]
    return size_of(model.parameters()) - sum(blocks) + 2 * max(blocks)


def communication_line(run: RunConfig, model: GPT) -> str:
    """Describe what each device sends in a step, and receives as well. An all-gather or a reduce-scatter of s bytes
    over N devices is (N - 1) / N s from each, in a ring; an all-reduce is one of both (Patarasuk & Yuan 2009)."""
    once = size_of(model.parameters()) * (run.n_devices - 1) / run.n_devices
    passes = run.accumulate
    sent, how = 2 * once, "gradients are averaged once"
    if run.trainer.strategy == "fsdp":
        sent, how = 3 * once * passes, "weights are gathered twice and gradients scattered once"
        how += f" for each of {passes} passes" if passes > 1 else ""
        if run.optimizer.kind == "muon":
            matrices = size_of(p for p in model.blocks.parameters() if p.dim() == 2)
            sent, how = sent + matrices * (run.n_devices - 1) / run.n_devices, how + ", Muon's updates gathered"
    return f"communication    {sent / 1e6:,.4g} MB a step from each device: {how}"


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product in `dtype`: what mfu is measured against."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.ones(n, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        out = nn.functional.linear(a, a)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    del out
    return 2 * n**3 / best

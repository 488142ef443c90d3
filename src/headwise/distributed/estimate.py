"""What a run will cost, told before it starts: parameters, tokens, arithmetic; memory and time with estimate=true."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from headwise.model.gpt import GPT, next_token_loss
from headwise.training.optimizers import make_optimizer
from headwise.training.resolve import PRECISIONS, RunConfig


def plan(run: RunConfig, model: GPT, counts: dict[str, int]) -> list[str]:
    """Lines on what the run will do, known without trying; `counts` are the tokens of each split."""
    step = run.tokens_per_step
    seen, flops = step * run.trainer.max_steps, model.flops_per_token()
    return [
        f"parameters       {model.n_parameters():,}; {seen / model.n_parameters():.3g} tokens to train on for each one",
        f"text             {counts['train']:,} training and {counts['val']:,} validation tokens",
        f"tokens           {step:,} a step, {seen:,} in all: the text {seen / counts['train']:.3g} times over",
        f"arithmetic       {flops / 1e6:.4g} MFLOP a token, {flops * seen:.3g} FLOP in all",
    ]


def setting(run: RunConfig, device: torch.device, peak: float) -> str:
    """A line on what the run runs on; `peak` is matmul_peak's."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    how = run.trainer.precision + (", compiled" if run.compile else "")
    speed = f"{peak / 1e9:,.0f} GFLOP/s in a matrix product"
    return f"device           {run.n_devices} x {device.type}, {kind}, {how}; {speed}"


def measured(run: RunConfig, model: GPT, device: torch.device, steps: int = 3) -> list[str]:
    """Lines on memory and time, from a few steps on random tokens with a copy of the model."""
    model = copy.deepcopy(model).to(device).train()
    dtype = PRECISIONS[run.trainer.precision]
    mixed = torch.autocast(device.type, dtype, enabled=run.trainer.precision == "bf16-mixed")
    if run.trainer.precision.endswith("true"):
        model.to(dtype)
    optimizer = make_optimizer(model, run.optimizer)
    shape = (run.data.batch_size, run.model.block_size + 1)
    ids = torch.randint(run.model.vocab_size, shape, device=device)
    accumulate, kept, activations = run.accumulate, dict[int, int](), 0
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    times = []
    for _ in range(steps):
        start = time.perf_counter()
        for _ in range(accumulate):
            kept.clear()
            with mixed, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = next_token_loss(model(ids[:, :-1]), ids[:, 1:])
            activations = sum(size for place, size in kept.items() if place not in own)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        wait(device)
        times.append(time.perf_counter() - start)
    split = run.n_devices > 1 and run.trainer.strategy == "fsdp"
    among = run.n_devices if split else 1
    weights = size_of(model.parameters()) / among
    state = sum(size_of(s.values()) for s in optimizer.state.values()) / among
    gathered = 2 * at_once(model) if split else 0  # with their gradients
    total = 2 * weights + state + gathered + activations
    seconds = min(times) * run.trainer.max_steps
    each = " on each device" if run.n_devices > 1 else ""
    return [
        f"memory           {total / 1e6:,.0f} MB{each}: weights and gradients "
        f"{2 * weights / 1e6:,.0f}, optimizer {state / 1e6:,.0f}, "
        + (f"gathered at once {gathered / 1e6:,.0f}, " if split else "")
        + f"activations {activations / 1e6:,.0f}; the program itself takes about 500 more",
        f"time             {min(times) * 1000:,.0f} ms a step, {seconds / 60:,.1f} minutes of steps in all"
        + (", before compiling" if run.compile else "")
        + (", without the communication" if run.n_devices > 1 else ""),
        *([communication(run, model)] if run.n_devices > 1 else []),
    ]


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def at_once(model: GPT) -> int:
    """Bytes of the weights that fsdp holds whole at one time, at most: what is outside of the blocks, the block that
    computes and the next."""
    blocks = [size_of(block.parameters()) for block in model.blocks]
    return size_of(model.parameters()) - sum(blocks) + 2 * max(blocks)


def communication(run: RunConfig, model: GPT) -> str:
    """A line on what each device sends in a step, and receives as well. An all-gather or a reduce-scatter of s bytes
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


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product in `dtype`: what utilisation is measured against."""
    n = 8192 if device.type == "cuda" else 1024
    a = torch.ones(n, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        out = nn.functional.linear(a, a)
        wait(device)
        best = min(best, time.perf_counter() - start)
    del out
    return 2 * n**3 / best

"""The estimate: arithmetic by hand, communication of ring algorithms, memory of one forward pass."""

import re

import pytest
import torch

from headwise.config import GPTConfig, TrainConfig
from headwise.distributed.estimate import communication_line, gathered_at_once, matmul_peak, plan_lines
from headwise.training.resolve import resolve
from tests.small import arguments, script_here, small_model


def run_on_three_devices(strategy, optimizer="adamw"):
    made = TrainConfig(model=GPTConfig(vocab_size=23, block_size=29, n_layer=2, n_head=3, n_embd=18))
    made.trainer.strategy, made.optimizer.kind = strategy, optimizer
    made.data.batch_size, made.data.global_batch_size = 5, 30
    return resolve(made, vocab_size=23, train_tokens=1009, n_devices=3, device="cpu")


def bytes_sent(line):
    return float(re.search(r"([\d.]+) MB a step", line)[1]) * 1e6


def test_communication_line_is_that_of_ring_algorithms():
    """By hand: 4 bytes for each parameter; two thirds of them go around in each of three devices' collectives."""
    model = small_model("gpt2")
    size, matrices = 4 * model.n_parameters(), 4 * sum(12 * 18 * 18 for _ in range(2))
    assert bytes_sent(communication_line(run_on_three_devices("ddp"), model)) == pytest.approx(
        2 * 2 / 3 * size, rel=1e-3
    )
    assert bytes_sent(communication_line(run_on_three_devices("fsdp"), model)) == pytest.approx(
        2 * 3 * 2 / 3 * size, rel=1e-3
    )
    both = 2 * 3 * 2 / 3 * size + 2 / 3 * matrices
    assert bytes_sent(communication_line(run_on_three_devices("fsdp", "muon"), model)) == pytest.approx(both, rel=1e-3)


def test_estimate_of_several_devices_is_of_each(tmp_path):
    wide = ["model.n_embd=512", "model.n_head=8", "data.batch_size=2", "trainer.accelerator=cpu", "trainer.devices=8"]
    wide += ["data.global_batch_size=16", "optimizer=adamw", "model=gpt2", "model.n_layer=4"]
    lines_of = {}
    for strategy in ("ddp", "fsdp"):
        run = arguments("run", [*wide, f"trainer={strategy}", "estimate=true"])
        done = script_here("train", *run, cwd=tmp_path)
        assert list(
            lines_of.setdefault(strategy, dict(line.split(maxsplit=1) for line in done.stdout.splitlines()))
        ) == [*("parameters", "text", "tokens", "arithmetic", "memory", "time", "communication")]
    parameters = int(lines_of["ddp"]["parameters"].split(";")[0].replace(",", ""))
    held = {
        name: re.findall(r"(?:gradients|optimizer|once) (\d+)", lines["memory"]) for name, lines in lines_of.items()
    }
    assert [int(mb) for mb in held["ddp"]] == [round(8 * parameters / 1e6)] * 2
    block = 12 * 512 * 512 + 13 * 512  # four matrices, biases and norms
    whole = 2 * 4 * (parameters - 4 * block + 2 * block)
    assert [int(mb) for mb in held["fsdp"]] == [round(parameters / 1e6)] * 2 + [round(whole / 1e6)]


def test_gathered_at_once_is_the_rest_and_two_blocks():
    model = small_model("qwen3", n_layer=5)
    blocks = sum(p.numel() for p in model.blocks.parameters())
    assert gathered_at_once(model) == 4 * (model.n_parameters() - blocks * 3 // 5)


def test_plan_lines_count_tokens_and_operations():
    run, model = run_on_three_devices("ddp"), small_model("gpt2")
    lines = dict(line.split(maxsplit=1) for line in plan_lines(run, model, {"train": 8700, "val": 100}))
    assert lines["text"] == "8,700 training and 100 validation tokens"
    assert lines["tokens"] == "870 a step, 1,740,000 in all: the text 200 times over"  # 2 x 3 x 5 windows of 29
    assert lines["arithmetic"].endswith(f" MFLOP a token, {model.flops_per_token() * 1740000:.3g} FLOP in all")


def test_matmul_peak_is_that_of_a_real_product():
    assert 1e8 < matmul_peak(torch.device("cpu"), torch.float32) < 1e15

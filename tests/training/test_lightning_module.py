"""The LightningModule: losses over tokens, dropout that depends on the step only, clipping, logging, divergence."""

import csv
import math
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from headwise.checkpoint import load
from headwise.config import GPTConfig, OptimizerConfig, ScheduleConfig
from headwise.data.datamodule import TextDataModule
from headwise.data.sampler import ValBatches
from headwise.errors import RunError, UserError
from headwise.model.gpt import GPT, next_token_loss
from headwise.training.lightning_module import TrainingModule
from tests.small import TEXT, metrics, small_model, small_tokenizer, train

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def small_module(**sizes):
    """A TrainingModule that belongs to a stub trainer."""
    module = TrainingModule(small_model(**sizes), small_tokenizer(), seed=3, bytes_per_val_token=1.5)
    module._trainer = stub_trainer()
    return module.train()


def stub_trainer(step=0, max_steps=50, accumulate=1, **attributes):
    """What callbacks and modules read of a Trainer between steps, on one device."""
    strategy = SimpleNamespace(
        reduce=lambda value, **_: value, reduce_boolean_decision=lambda decision, all=True: decision
    )
    values = {"global_step": step, "max_steps": max_steps, "accumulate_grad_batches": accumulate, "should_stop": False}
    values |= {"is_global_zero": True, "global_rank": 0, "world_size": 1, "strategy": strategy, "loggers": []}
    values |= {"fast_dev_run": False, "sanity_checking": False, "state": SimpleNamespace(fn="fit"), "current_epoch": 0}
    return SimpleNamespace(**values | attributes)


def test_val_loss_is_the_mean_over_tokens_however_they_are_batched():
    tokens = np.random.default_rng(0).integers(0, 23, 1009).astype(np.uint16)
    chunks = [torch.from_numpy(tokens[i : i + 30].astype(np.int64)) for i in range(0, 1008, 29)]
    module = small_module().eval()
    with torch.no_grad():  # window by window, averaged by hand
        sums = [next_token_loss(module.model(c[None, :-1]), c[None, 1:], reduction="sum") for c in chunks]
    expected = float(sum(sums)) / 1008
    for rows in (1, 5, 97):
        batches = ValBatches(tokens, 29, 23)
        batches.rows = rows
        (logged,) = L.Trainer(**QUIET, logger=False).validate(module, batches, verbose=False)
        assert module.val_loss == pytest.approx(expected, rel=1e-5)
        assert module.val_bits_per_byte == pytest.approx(expected / math.log(2) / 1.5, rel=1e-5)
        assert logged["val_loss"] == pytest.approx(module.val_loss)
        assert logged["val_bits_per_byte"] == pytest.approx(module.val_bits_per_byte)


def test_dropout_depends_on_seed_step_and_micro_step_only():
    module, batch = small_module(dropout=0.5), (torch.randint(23, (2, 7)), torch.randint(23, (2, 7)))

    def loss(batch_idx, step):
        torch.rand(11)  # what runs between steps
        module._trainer = stub_trainer(step, accumulate=2)
        return module.training_step(batch, batch_idx)

    first = loss(batch_idx=4, step=2)
    assert torch.equal(loss(0, 2), first)  # however the batches were counted before
    assert not torch.equal(loss(5, 2), first)
    assert not torch.equal(loss(4, 3), first)


def test_train_loss_is_the_mean_over_the_micro_steps():
    module, losses = small_module(), []
    module._trainer = stub_trainer(accumulate=3)
    for i in range(3, 6):
        batch = torch.randint(23, (2, 7)), torch.randint(23, (2, 7))
        losses.append(float(module.training_step(batch, i).detach()))
    assert float(module.train_loss) == pytest.approx(sum(losses) / 3)


def test_gradient_is_clipped_and_its_norm_before_that_is_stored():
    module = small_module()
    next_token_loss(module.model(torch.randint(23, (2, 7))), torch.randint(23, (2, 7))).backward()
    before = math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters()))
    module.configure_gradient_clipping(torch.optim.SGD(module.parameters(), lr=0.1), before / 2)
    after = math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters()))
    assert float(module.grad_norm) == pytest.approx(before, rel=1e-5)
    assert after == pytest.approx(before / 2, rel=1e-4)


def test_divergence_is_named_with_the_number_that_shows_it():
    module = small_module()
    module._trainer = stub_trainer(7)
    module.train_loss, module.grad_norm = torch.tensor(2.0), torch.tensor(1.0)
    module.raise_if_diverged()
    module.grad_norm = torch.tensor(math.inf)
    with pytest.raises(RunError, match="diverged by step 7: its gradient norm is inf"):
        module.raise_if_diverged()
    module.grad_norm, module.val_loss, module.val_count = torch.tensor(1.0), math.nan, 1
    with pytest.raises(RunError, match="its validation loss is nan"):
        module.raise_if_diverged()


def test_divergence_is_also_a_loss_far_above_that_of_guessing():
    module = small_module()
    module.train_loss, module.grad_norm = torch.tensor(7.2), torch.tensor(1.0)  # guessing gives ln 23 = 3.14
    module.raise_if_diverged()
    module.train_loss = torch.tensor(7.4)
    wrong = r"its training loss is 7\.4, where guessing gives 3\.14; try a smaller optimizer\.lr"
    with pytest.raises(RunError, match=wrong):
        module.raise_if_diverged()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A fit in a plain Trainer of Lightning's, with its own EarlyStopping, ModelCheckpoint and CSVLogger."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "my.txt").write_text(TEXT)
    data = TextDataModule(str(folder / "my.txt"), block_size=17, batch_size=3, cache_dir=str(folder / "cache"))
    model = small_model(block_size=17, vocab_size=data.tokenizer.vocab_size).train()
    optimizer, schedule = OptimizerConfig(lr=0.01), ScheduleConfig(kind="linear", warmup_steps=2)
    module = TrainingModule(model, data.tokenizer, optimizer, schedule)
    logger = CSVLogger(folder / "logs")
    best = ModelCheckpoint(folder / "checkpoints", "{step}", monitor="val_loss", save_top_k=1)
    trainer = L.Trainer(
        **QUIET,
        logger=logger,
        max_steps=11,
        val_check_interval=4,
        check_val_every_n_epoch=None,
        log_every_n_steps=3,
        num_sanity_val_steps=0,
        callbacks=[best, EarlyStopping("val_loss")],
    )
    trainer.fit(module, data)
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    return SimpleNamespace(trainer=trainer, best=best, rows=rows)


def test_plain_trainer_gets_training_values_every_n_steps_and_validation_values_at_validations(plain):
    train = {row["step"]: row for row in plain.rows if "train_loss" in row}
    assert sorted(train) == [3, 6, 9]
    assert all(row["train_loss"] > 0 and row["grad_norm"] > 0 for row in train.values())
    assert [train[step]["lr"] for step in (3, 6)] == pytest.approx([0.01, 0.01 * (1 - 0.9 * 3 / 9)])
    assert [row["step"] for row in plain.rows if "val_loss" in row] == [4, 8]
    assert plain.rows[-1]["step"] == 9


def test_plain_trainers_callbacks_can_monitor_val_loss(plain):
    logged = [row["val_loss"] for row in plain.rows if "val_loss" in row]
    assert float(plain.best.best_model_score) == pytest.approx(min(logged))
    assert torch.load(plain.best.best_model_path, weights_only=True)["headwise"]["about"]["step"] in (4, 8)
    assert float(plain.trainer.early_stopping_callback.best_score) == pytest.approx(min(logged))


def test_load_from_checkpoint_needs_nothing_but_the_path(plain):
    module = TrainingModule.load_from_checkpoint(plain.best.best_model_path)
    assert all(type(value) in (dict, int, type(None)) for value in module.hparams.values())
    assert module.hparams == plain.trainer.lightning_module.hparams
    assert module.optimizer_config == OptimizerConfig(lr=0.01)
    assert module.schedule_config == ScheduleConfig(kind="linear", warmup_steps=2)
    ids = module.tokenizer.encode("The lions left.")
    saved = torch.load(plain.best.best_model_path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())
    assert torch.equal(module(torch.tensor([ids])), module.model(torch.tensor([ids])))


def test_load_from_checkpoint_replaces_what_is_given(plain):
    module = TrainingModule.load_from_checkpoint(plain.best.best_model_path, total_steps=7, seed=5)
    assert (module.total_steps, module.seed) == (7, 5)


def test_trainer_validates_a_loaded_module(plain, tmp_path):
    (tmp_path / "my.txt").write_text(TEXT)
    data = TextDataModule(str(tmp_path / "my.txt"), block_size=17, cache_dir=str(tmp_path / "cache"))
    module = TrainingModule.load_from_checkpoint(plain.best.best_model_path)
    (values,) = L.Trainer(**QUIET, logger=False).validate(module, data, verbose=False)
    assert values["val_loss"] == pytest.approx(float(plain.best.best_model_score), rel=1e-5)
    per_byte = data.token_files.bytes_per_token("val")
    assert values["val_bits_per_byte"] == pytest.approx(values["val_loss"] / math.log(2) / per_byte, rel=1e-5)


class Pairs(torch.utils.data.Dataset):
    """A user's own data set of (ids, targets)."""

    def __len__(self):
        return 23

    def __getitem__(self, i):
        ids = torch.arange(i, i + 8) % 23
        return ids[:-1], ids[1:]


def fit_pairs(module, **flags):
    loader = torch.utils.data.DataLoader(Pairs(), batch_size=5, shuffle=True)
    trainer = L.Trainer(**QUIET, logger=False, enable_checkpointing=False, **flags)
    trainer.fit(module, loader)
    return trainer


def test_module_trains_on_any_data_loader_and_without_a_tokenizer():
    optimizer, schedule = OptimizerConfig(lr=0.01), ScheduleConfig(warmup_steps=2)
    module = TrainingModule(small_model().train(), optimizer=optimizer, schedule=schedule, total_steps=30)
    trainer = fit_pairs(module, max_epochs=6)
    assert trainer.global_step == 30
    assert float(module.train_loss) < math.log(23) - 0.5
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.001)  # the schedule has ended: min_lr_ratio


def test_schedule_ends_at_total_steps_or_else_at_max_steps_of_the_trainer():
    module = small_module()
    module._trainer = stub_trainer(max_steps=200)
    assert module.schedule_length() == 200
    module.total_steps = 150
    assert module.schedule_length() == 150
    assert module.lr_multiplier(150) == module.lr_multiplier(10**6) == pytest.approx(0.1)


def test_schedule_of_unknown_length_is_a_one_line_error_before_the_first_step():
    with pytest.raises(UserError, match=r"^schedule\.kind=cosine needs the number of optimizer steps; give Training"):
        fit_pairs(TrainingModule(small_model().train()), max_epochs=2)
    constant = TrainingModule(small_model().train(), schedule=ScheduleConfig("constant", warmup_steps=2))
    fit_pairs(constant, max_epochs=2)
    assert constant.last_lr == 1e-3


def test_gradient_is_clipped_by_value_where_the_trainer_says_so():
    module = TrainingModule(small_model().train(), schedule=ScheduleConfig("constant", warmup_steps=0))
    fit_pairs(module, max_steps=2, gradient_clip_val=1e-5, gradient_clip_algorithm="value")
    assert max(float(p.grad.abs().max()) for p in module.parameters() if p.grad is not None) <= 1e-5
    assert float(module.grad_norm) > 1e-3  # before clipping


def test_forty_steps_in_a_trainer_of_ones_own_have_the_losses_of_the_command(tmp_path):
    steps = [
        "trainer.max_steps=40",
        "trainer.log_every_n_steps=1",
        "trainer.val_check_interval=20",
        "model.dropout=0.1",
    ]
    (tmp_path / "my.txt").write_text(TEXT)
    own = ["data=files", "data.path=my.txt", "data.cache_dir=cache", "trainer=cpu", "seed=7", "schedule.warmup_steps=5"]
    train(tmp_path, "run", *steps, *own)
    config = load(tmp_path / "run").about["config"]
    data = TextDataModule(str(tmp_path / "my.txt"), block_size=24, batch_size=5, seed=7, cache_dir=str(tmp_path / "c"))
    L.seed_everything(7, verbose=False)
    model = GPT(GPTConfig(**config["model"]))
    optimizer, schedule = OptimizerConfig(**config["optimizer"]), ScheduleConfig(**config["schedule"])
    module = TrainingModule(model, data.tokenizer, optimizer, schedule, seed=7)
    logger = CSVLogger(tmp_path / "logs")
    flags = {"max_steps": 40, "log_every_n_steps": 1, "val_check_interval": 20, "gradient_clip_val": 1.0}
    L.Trainer(**QUIET, **flags, check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=logger).fit(module, data)
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    of_command = metrics(tmp_path / "run")
    for name, count in (("train_loss", 40), ("val_loss", 2), ("grad_norm", 40), ("lr", 40), ("val_bits_per_byte", 2)):
        mine = [float(row[name]) for row in rows if row[name]]
        assert len(mine) == count
        assert mine == pytest.approx([float(row[name]) for row in of_command if row[name]], rel=1e-5), name


def test_hw_load_opens_a_checkpoint_of_any_trainer_that_has_a_tokenizer(plain, tmp_path):
    checkpoint = load(plain.best.best_model_path)
    assert checkpoint.tokenizer.decode(checkpoint.tokenizer.encode("The lions")) == "The lions"
    trainer = fit_pairs(TrainingModule(small_model().train(), total_steps=2), max_steps=2)
    trainer.save_checkpoint(tmp_path / "bare.ckpt")
    with pytest.raises(UserError, match=r"bare\.ckpt was saved without a tokenizer; give TrainingModule\(tokenizer="):
        load(tmp_path / "bare.ckpt")
    assert TrainingModule.load_from_checkpoint(tmp_path / "bare.ckpt").tokenizer is None

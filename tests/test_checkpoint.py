"""Checkpoints: self-contained, found by the name a user would give, safe to open."""

import os
import pickle

import pytest
import torch

from headwise.checkpoint import MODEL_PREFIX, describe, find, load
from headwise.errors import UserError
from tests.small import small_model, small_tokenizer


def save(path, **about):
    tokenizer = small_tokenizer()
    model = small_model("gpt2", tokenizer.vocab_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {MODEL_PREFIX + name: value for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights, "headwise": describe(model, tokenizer, about)}, path)
    return model, tokenizer


def test_a_checkpoint_gives_model_tokenizer_and_facts_back(tmp_path):
    model, tokenizer = save(tmp_path / "a.ckpt", step=7)
    checkpoint = load(tmp_path / "a.ckpt")
    ids = torch.tensor([tokenizer.encode("The lions")])
    assert torch.equal(checkpoint.model(ids), model(ids))
    assert checkpoint.model.config == model.config
    assert not checkpoint.model.training
    assert checkpoint.tokenizer.decode(ids[0].tolist()) == "The lions"
    assert checkpoint.about == {"step": 7}


def test_a_checkpoint_of_version_0_1_opens_with_the_names_of_today(tmp_path):
    model, _ = save(tmp_path / "a.ckpt", config={"optimizer": {"muon_iterations": 3}, "model": {"init": "gpt2"}})
    raw = torch.load(tmp_path / "a.ckpt", weights_only=True)
    old = {"tie_embeddings": "tied_head", "rope_theta": "rotary_base"}
    raw["headwise"]["model"] = {old.get(k, k): v for k, v in raw["headwise"]["model"].items()} | {"init": "gpt2"}
    torch.save(raw, tmp_path / "a.ckpt")
    checkpoint = load(tmp_path / "a.ckpt")
    assert checkpoint.model.config == model.config
    assert checkpoint.about["config"] == {"optimizer": {"ns_steps": 3}, "model": {"init": "scaled_normal"}}


def test_a_run_folder_means_its_best_checkpoint_and_nothing_means_the_newest_run(tmp_path):
    for age, run in ((30, "a"), (10, "b"), (20, "c")):
        for name in ("best", "last"):
            file = tmp_path / f"runs/x/{run}/checkpoints/{name}.ckpt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            os.utime(file, (1e9 - age, 1e9 - age))
    runs = str(tmp_path / "runs")
    assert find(None, runs) == tmp_path / "runs/x/b/checkpoints/best.ckpt"
    assert find(f"{runs}/x/a") == tmp_path / "runs/x/a/checkpoints/best.ckpt"
    assert find(f"{runs}/x/a/checkpoints/last.ckpt").name == "last.ckpt"
    (tmp_path / "runs/x/a/checkpoints/best.ckpt").unlink()
    assert find(f"{runs}/x/a").name == "last.ckpt"


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match=r"there is no checkpoint under .* yet: train first"):
        find(None, str(tmp_path))
    with pytest.raises(UserError, match="nowhere does not exist"):
        find(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"is a folder without checkpoints/best\.ckpt"):
        find(str(tmp_path))


class Evil:
    def __reduce__(self):
        return (os.system, ("touch evil",))


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps({"a": 1})])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint=.*a\.ckpt (cannot be read|was not written by Headwise)"):
        load(tmp_path / "a.ckpt")


def test_no_code_in_a_checkpoint_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"headwise": Evil()}, "a.ckpt")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "a.ckpt")
    assert not (tmp_path / "evil").exists()

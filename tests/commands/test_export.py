"""headwise export: a Hugging Face folder of a run that transformers opens."""

from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.small import script_here, train
from tests.test_huggingface import greedy


def test_export_writes_a_card_that_describes_the_run(tmp_path):
    steps = ["trainer.max_steps=20", "trainer.val_check_interval=20", "model.init=scaled_normal"]
    summary = train(tmp_path, "run", *steps, "schedule.warmup_steps=1")  # far enough for logits without ties
    done = script_here("export", "--checkpoint", "run", "--output", "out", cwd=tmp_path)
    assert done.stdout == "out\n"
    card = (tmp_path / "out/README.md").read_text()
    assert "| data | python_docs" in card
    assert f"| steps | 20, {20 * 5 * 24:,} tokens |" in card
    assert f"| validation loss | {summary['val_loss']:.4f} nats per token |" in card
    model, tokenizer = (auto.from_pretrained(tmp_path / "out") for auto in (AutoModelForCausalLM, AutoTokenizer))
    said = tokenizer.decode(greedy(model, tokenizer("def ").input_ids, 20))
    flags = ["--prompt", "def ", "--max-new-tokens", 20, "--temperature", 0]
    assert script_here("generate", "--checkpoint", "run", *flags, cwd=tmp_path).stdout == said + "\n"
    assert script_here("generate", "--checkpoint", "out", *flags, cwd=tmp_path).stdout == said + "\n"
    again = script_here("export", "--checkpoint", "run", "--output", "out", cwd=tmp_path, ok=False)
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith(f"error: output={tmp_path}/out exists already; give")


def test_export_refuses_an_impossible_output_in_one_line(tmp_path):
    train(tmp_path, "run", "trainer.max_steps=1", "trainer.val_check_interval=1")
    (tmp_path / "file").write_text("")
    done = script_here("export", "--checkpoint", "run", "--output", "file/sub", cwd=tmp_path, ok=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2  # the checkpoint's name, and the error

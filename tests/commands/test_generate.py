"""headwise generate: prompts, samples, sessions and attention pages of a trained run."""

import json
import subprocess
import sys

import pytest
import torch

from headwise.checkpoint import load
from tests.browser.views import data_of
from tests.small import ROOT, script, script_here


def test_generate_continues_the_prompt_and_repeats_with_the_seed(run):
    cwd, folder, _ = run
    first, again, other = (
        script(
            "generate", "--checkpoint", folder, "--prompt", "def ", "--max-new-tokens", 30, "--top-k", 9, *seed, cwd=cwd
        )
        for seed in (["--seed", 1], ["--seed", 1], ["--seed", 2])
    )
    assert first.stdout.startswith("def ")
    assert len(first.stdout) == len("def ") + 30 + 1
    assert first.stdout == again.stdout != other.stdout
    assert "best.ckpt" in first.stderr


def test_generate_refuses_characters_without_a_token(run):
    cwd, folder, _ = run
    result = script_here("generate", "--checkpoint", folder, "--prompt", "a€", cwd=cwd, ok=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("error: --prompt holds characters the tokenizer has no token for")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--top-k", "many"], "argument --top-k: invalid int value: 'many'"),
        (["--top-k", "0"], "top_k=0 must be at least 1"),
        (["--temperature", "-1"], "temperature=-1.0 must be at least 0"),
        (["--seed", "-1"], "seed=-1 must be at least 0"),
        (["--prompt", ""], "the prompt is empty; give at least one character, since the tokenizer has no end-of-text"),
        (["--checkpoint", "nowhere"], "checkpoint=nowhere does not exist and could not be downloaded from the Hub"),
        (["--checkpoint", "no/where/at/all"], "checkpoint=no/where/at/all does not exist"),
        (["--max-tokens", "5"], "unrecognized arguments: --max-tokens 5"),
    ],
)
def test_generate_answers_wrong_flags_with_one_line_and_exit_code_2(run, flags, message):
    cwd, folder, _ = run
    given = ["--prompt", "def ", "--checkpoint", folder, *flags]
    result = script_here("generate", *given, cwd=cwd, ok=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith(f"error: {message}")


def test_generate_ends_quietly_when_its_pipe_closes(run):
    cwd, folder, _ = run
    command = f"{sys.executable} {ROOT}/scripts/generate.py --prompt 'def ' --checkpoint {folder} | head -c 5"
    result = subprocess.run(command, shell=True, capture_output=True, cwd=cwd, check=False)
    assert result.stdout.startswith(b"def ")
    assert len(result.stdout) == 5
    assert b"Error" not in result.stderr


def test_generate_prints_samples_of_several_prompts_as_one_json_object_or_as_text(run):
    cwd, folder, _ = run
    flags = ["--checkpoint", folder, "--max-new-tokens", 9, "--num-samples", 2, "--seed", 5, "--prompt", "def", "class"]
    printed = json.loads(script_here("generate", *flags, "--json", cwd=cwd).stdout)
    assert printed["prompt"] == ["def", "class"]
    assert [(one["prompt"], one["seed"]) for one in printed["samples"]] == [
        (p, s) for p in printed["prompt"] for s in (5, 6)
    ]
    assert all(len(one["tokens"]) == len(one["logprobs"]) == 9 for one in printed["samples"])
    assert printed["tokens_per_second"] > 0 < printed["first_token_seconds"]
    assert printed["checkpoint"].endswith("best.ckpt")
    plain = script_here("generate", *flags, cwd=cwd).stdout
    for number, one in enumerate(printed["samples"]):
        assert f"==== prompt {number // 2 + 1}, seed {one['seed']}\n{one['prompt']}{one['text']}\n" in plain
        alone = [*flags[:4], "--seed", one["seed"], "--prompt", one["prompt"]]
        assert script_here("generate", *alone, cwd=cwd).stdout == f"{one['prompt']}{one['text']}\n"


def test_generate_attention_page_shows_the_generated_tokens(run):
    cwd, folder, _ = run
    flags = ["--checkpoint", folder, "--max-new-tokens", 9, "--prompt", "def", "class", "--attention", "generated.html"]
    printed = json.loads(script_here("generate", *flags, "--json", cwd=cwd).stdout)
    page = (cwd / "generated.html").read_text()
    data = data_of(page)
    assert [prompt["new"] for prompt in data["prompts"]] == [len("def"), len("class")]
    for prompt, one in zip(data["prompts"], printed["samples"], strict=True):
        shown = "".join(prompt["labels"]).replace("␣", " ").replace("⏎", "\n")
        assert shown == one["prompt"] + one["text"]
    assert data["start"] == {"query": len("def") - 1}  # from which the first token was chosen
    for wrong in ("generated.png", "."):
        refused = script_here("generate", *flags[:-1], wrong, cwd=cwd, ok=False)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"--attention={wrong}" in refused.stderr


def test_interactive_session_continues_one_text(run):
    """Two lines of a session are the text, a newline and the next line as one prompt."""
    cwd, folder, _ = run
    flags = ["--checkpoint", str(folder), "--max-new-tokens", "12", "--temperature", "0.7"]
    session = [sys.executable, ROOT / "scripts/generate.py", *flags, "--seed", "3", "--interactive"]
    given = "import\n日\nclass A"
    talk = subprocess.run(session, input=given, capture_output=True, text=True, cwd=cwd, check=True)
    assert "'日' at 0" in talk.stderr
    first = script_here("generate", *flags, "--seed", "3", "--prompt", "import", cwd=cwd).stdout
    whole = script_here("generate", *flags, "--seed", "4", "--prompt", f"{first}class A", cwd=cwd).stdout
    assert talk.stdout == whole
    assert "24 tokens in" in talk.stderr
    for wrong in (["--json"], ["--num-samples", "2"], ["--attention", "a.html"], ["--prompt", "a", "b"]):
        refused = script_here("generate", *flags, "--interactive", *wrong, cwd=cwd, ok=False)
        assert refused.returncode == 2
        assert "--interactive continues one text" in refused.stderr


def test_generate_reads_the_prompt_from_a_file_or_standard_input(run):
    cwd, folder, _ = run
    (cwd / "prompt.txt").write_text("import this\n")
    flags = ["--checkpoint", str(folder), "--max-new-tokens", "5", "--greedy"]
    given = script_here("generate", *flags, "--prompt", "import this\n", cwd=cwd).stdout
    assert script_here("generate", *flags, "--prompt-file", "prompt.txt", cwd=cwd).stdout == given
    piped = [sys.executable, ROOT / "scripts/generate.py", *flags, "--prompt-file", "-"]
    assert subprocess.run(piped, input="import this\n", capture_output=True, text=True, cwd=cwd).stdout == given
    (cwd / "latin.txt").write_bytes(b"caf\xe9")
    for wrong, message in (
        (["--prompt-file", "latin.txt"], "--prompt-file latin.txt is not UTF-8 at byte 3"),
        (["--prompt-file", "absent.txt"], "absent.txt: No such file"),
        (["--prompt", "a", "--prompt-file", "prompt.txt"], "give one of --prompt TEXT and --prompt-file FILE"),
        ([], "give one of --prompt TEXT and --prompt-file FILE"),
    ):
        refused = script_here("generate", *flags, *wrong, cwd=cwd, ok=False)
        assert refused.returncode == 2
        assert message in refused.stderr.splitlines()[-1]


def test_replace_unknown_replaces_characters_without_a_token(run):
    cwd, folder, _ = run
    flags = ["--checkpoint", folder, "--max-new-tokens", 5]
    printed = json.loads(
        script_here("generate", *flags, "--prompt", "5 €", "--replace-unknown", "--json", cwd=cwd).stdout
    )
    assert printed["prompt"] == "5 ?"


def test_generate_attention_page_of_a_long_text_shows_the_last_context(run):
    """block_size is 24: of 4 + 50 tokens the last was chosen from those from number 36 on."""
    cwd, folder, _ = run
    flags = ["--checkpoint", folder, "--max-new-tokens", 50, "--prompt", "def ", "--attention", "long.html"]
    printed = json.loads(script_here("generate", *flags, "--json", cwd=cwd).stdout)
    prompt = data_of((cwd / "long.html").read_text())["prompts"][0]
    whole = printed["prompt"] + printed["samples"][0]["text"]
    assert "".join(prompt["labels"]).replace("␣", " ").replace("⏎", "\n") == whole[36:]
    assert "18 of 54 tokens" in prompt["note"]
    assert prompt["new"] == 13  # number 48 was chosen when 24 to 48 were in view, number 49 from 36 on
    checkpoint = load(folder / "checkpoints/best.ckpt")
    with torch.no_grad():
        seen = checkpoint.model(torch.tensor([checkpoint.tokenizer.encode(whole[36:])])).log_softmax(-1)[0]
    sample = printed["samples"][0]
    again = [float(seen[t - 37, sample["tokens"][t - 4]]) for t in range(49, 54)]
    assert again == pytest.approx(sample["logprobs"][45:], abs=1e-4)

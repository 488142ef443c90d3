"""The attention page in a real browser: its size, how soon it is painted, how fast it answers the pointer.

    python benchmarks/page.py [--rounds N]      (needs playwright, of the dev extra, and chromium on the path)

Two pages of a six-layer model with six heads each, 384 wide, with random weights that make its heads choose: one step
of 256 tokens, and 20 steps of 64.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import tempfile
from datetime import date
from pathlib import Path

import torch
from hardware import processor
from playwright.sync_api import sync_playwright

from headwise.config import GPTConfig
from headwise.inspection.inputs import Input
from headwise.inspection.page.page import View, render
from headwise.inspection.recorder import page_arrays, page_prompt, take_snapshot
from headwise.model.gpt import GPT

HOVER = """async () => {
  const over = document.getElementById("over"), box = over.getBoundingClientRect(), times = [];
  for (let i = 0; i < 40; i++) {
    const part = (i * 17 % 40 + 0.5) / 40;
    const at = { clientX: box.left + box.width * part / 2, clientY: box.top + box.height * (part + 1) / 2 };
    const began = performance.now();
    over.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, pointerType: "mouse", ...at }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - began);
  }
  return times;
}"""


def model_at(step: int, length: int) -> GPT:
    """A model whose weights move with the step."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=65, n_layer=6, n_head=6, n_embd=384, block_size=length, position="rotary"))
    for p in model.parameters():
        if p.ndim == 2:
            p.data *= 4 + 0.02 * step
    return model.eval()


def page_of(steps: list[int], length: int) -> str:
    """The page of random tokens as the model reads them at these steps."""
    ids = torch.randint(65, (1, length), generator=torch.Generator().manual_seed(1))
    snapshots = [take_snapshot(model_at(step, length), [Input("text", ids)], step) for step in steps]
    arrays = [page_arrays(snapshot.maps["text"], snapshot.main_scores) for snapshot in snapshots]
    labels = [chr(97 + i % 26) for i in ids[0].tolist()]
    prompt = page_prompt("text", labels, arrays, snapshots[-1].maps["text"], model_at(steps[-1], length).config)
    return render(View("benchmark", steps, [prompt], 6))


def main() -> None:
    parser = argparse.ArgumentParser(description="Size, first paint and response of the attention page.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{processor()}; {date.today()}; median of {rounds} rounds\n")
    print("| page | MB | first paint, ms | ready, ms | hover to frame, ms: median, greatest | self-check |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, steps, length in (
            ("one step, 256 tokens", [1000], 256),
            ("20 steps, 64 tokens", list(range(0, 2000, 100)), 64),
        ):
            file = Path(folder) / "view.html"
            file.write_text(page_of(steps, length), encoding="utf-8")
            paints, readies, hovers, check = [], [], [], ""
            for _ in range(rounds):
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                page.goto(file.as_uri())
                readies.append(page.evaluate("headwise.ready.then(() => performance.now())"))
                page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
                paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
                hovers += page.evaluate(HOVER)
                check = re.findall(r"at most (\S+)\.", page.locator("#check").inner_text())[0]
                page.close()
            size = file.stat().st_size / 1e6
            paint, ready = statistics.median(paints), statistics.median(readies)
            hover = f"{statistics.median(hovers):.0f}, {max(hovers):.0f}"
            print(f"| {name} | {size:.2f} | {paint:.0f} | {ready:.0f} | {hover} | {check} |", flush=True)
        browser.close()


if __name__ == "__main__":
    main()

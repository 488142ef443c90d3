"""Tokenize a text, and print what is in it.

  headwise prepare data=files data.path=my.txt                      characters
  headwise prepare data=files data.path=texts tokenizer=bpe tokenizer.vocab_size=4096
  headwise prepare data=files data.path=texts plot=true             with a picture

The tokens go to data.cache_dir, where `headwise train` with the same choices reads them.
"""

from headwise.config import PrepareConfig
from headwise.launch import launch


def main(arguments: list[str] | None = None) -> None:
    """Prepare a text with the given arguments, by default those of the command line."""
    launch(run, "prepare", __doc__ or "", arguments)


def run(config: PrepareConfig) -> None:
    """Prepare the text of a configuration, and print a report."""
    from headwise.data.prepare import check, plot, prepare, report

    check(config.data, config.tokenizer)
    packed = prepare(config.data, config.tokenizer)
    print(report(packed))
    if config.plot:
        print(f"picture          {plot(packed)}")

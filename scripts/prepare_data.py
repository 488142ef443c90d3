"""Make a text ready for training, and see what was made of it.

  python scripts/prepare_data.py data=files data.path=my.txt                      characters
  python scripts/prepare_data.py data=files data.path=texts tokenizer=bpe tokenizer.vocab_size=4096
  python scripts/prepare_data.py data=files data.path=texts plot=true             with a picture

The tokens go to data.cache_dir, where scripts/train.py finds them with the same choices.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from headwise.launch import launch


def main(config: DictConfig) -> None:
    from headwise.data.prepare import check, plot, prepare, report

    wanted: Any = OmegaConf.to_object(config)
    check(wanted.data, wanted.tokenizer)
    packed = prepare(wanted.data, wanted.tokenizer)
    print(report(packed))
    if wanted.plot:
        print(f"picture          {plot(packed)}")


if __name__ == "__main__":
    launch(main, "prepare", __doc__ or "")

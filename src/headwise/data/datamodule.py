"""The batches as Lightning asks for them."""

from __future__ import annotations

import lightning as L

from headwise.data.batches import TrainBatches, ValBatches
from headwise.data.token_files import TokenFiles
from headwise.errors import require


class TextDataModule(L.LightningDataModule):
    """Windows of a packed text. Training starts at the trainer's global step, so a resumed run goes on where it
    stopped."""

    def __init__(
        self,
        packed: TokenFiles,
        block_size: int,
        batch_size: int,
        accumulate: int,
        seed: int,
        val_tokens: int | None = None,
    ):
        super().__init__()
        train, val = packed.tokens("train"), packed.tokens("val")
        require(
            len(train) > block_size,
            f"model.block_size={block_size} must be below the {len(train)} tokens of the training text",
        )
        require(len(val) >= 2, f"the validation text is {len(val)} token long; give more text or data.val_path")
        self.train = TrainBatches(train, block_size, batch_size, accumulate, seed)
        self.val = ValBatches(val[: val_tokens + 1] if val_tokens else val, block_size, packed.tokenizer.vocab_size)

    def train_dataloader(self) -> TrainBatches:
        assert self.trainer is not None
        self.train.first_step, self.train.last_step = self.trainer.global_step, self.trainer.max_steps
        self.train.rank, self.train.devices = self.trainer.global_rank, self.trainer.world_size
        return self.train

    def val_dataloader(self) -> ValBatches:
        assert self.trainer is not None
        self.val.rank, self.val.devices = self.trainer.global_rank, self.trainer.world_size
        return self.val

"""What holds for every test: no account, no network, whatever the machine has."""

import os

os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"

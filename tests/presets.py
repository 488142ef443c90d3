"""The presets of configs/model as the tests' own source of kinds."""

import yaml

from headwise.launch import CONFIGS

PRESETS = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((CONFIGS / "model").glob("*.yaml"))}
for preset in PRESETS.values():
    preset["norm_eps"] = float(preset["norm_eps"])  # plain YAML reads 1e-6 as text, Hydra as a number

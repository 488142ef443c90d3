"""To and from Hugging Face folders: GPT-2's layout and Qwen3's.

    checkpoint = read_folder(Path("gpt2"))                # checkpoint.load opens what it has a name for
    export(checkpoint, Path("exported"))                  # opens with AutoModelForCausalLM and AutoTokenizer

Each layout is one explicit map from our modules to theirs. What a layout cannot hold is refused, never bent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from headwise.checkpoint import Checkpoint
from headwise.config import GPTConfig
from headwise.errors import UserError, require
from headwise.files import whole_folder, write_text
from headwise.model.gpt import GPT
from headwise.tokenizer import END_OF_TEXT, read_tokenizer
from headwise.validation import validate_model


class Layout(NamedTuple):
    """One architecture of `transformers`: what it can hold, and how it names and stores it."""

    architecture: str
    kinds: dict[str, Any]  # GPTConfig values that it stands for
    sizes: dict[str, str]  # GPTConfig's name -> theirs in config.json
    defaults: dict[str, Any]  # what a value means that config.json leaves out
    fixed: dict[str, tuple]  # settings of theirs that we have only one way of, in every spelling, the usual one first
    dropouts: tuple[str, ...]  # their names for our one dropout
    modules: dict[str, tuple[str, ...]]  # our module -> theirs; several where we keep them side by side


LAYOUTS = {
    "gpt2": Layout(
        architecture="GPT2LMHeadModel",
        kinds={
            "attention": "softmax",
            "position": "learned",
            "norm": "layernorm",
            "mlp": "gelu",
            "bias": True,
            "qk_norm": False,
        },
        sizes={
            "vocab_size": "vocab_size",
            "block_size": "n_positions",
            "n_layer": "n_layer",
            "n_head": "n_head",
            "n_embd": "n_embd",
            "n_inner": "n_inner",
            "norm_eps": "layer_norm_epsilon",
            "tie_embeddings": "tie_word_embeddings",
        },
        defaults={"n_inner": None, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
        fixed={
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        dropouts=("attn_pdrop", "embd_pdrop", "resid_pdrop"),
        modules={
            "embedding": ("transformer.wte",),
            "position.table": ("transformer.wpe",),
            "blocks.{}.attention_norm": ("transformer.h.{}.ln_1",),
            "blocks.{}.attention.qkv": ("transformer.h.{}.attn.c_attn",),
            "blocks.{}.attention.out": ("transformer.h.{}.attn.c_proj",),
            "blocks.{}.mlp_norm": ("transformer.h.{}.ln_2",),
            "blocks.{}.mlp.up": ("transformer.h.{}.mlp.c_fc",),
            "blocks.{}.mlp.down": ("transformer.h.{}.mlp.c_proj",),
            "norm": ("transformer.ln_f",),
            "head": ("lm_head",),
        },
    ),
    "qwen3": Layout(
        architecture="Qwen3ForCausalLM",
        kinds={
            "attention": "softmax",
            "position": "rotary",
            "norm": "rmsnorm",
            "mlp": "swiglu",
            "bias": False,
            "qk_norm": True,
        },
        sizes={
            "vocab_size": "vocab_size",
            "block_size": "max_position_embeddings",
            "n_layer": "num_hidden_layers",
            "n_head": "num_attention_heads",
            "n_kv_head": "num_key_value_heads",
            "n_embd": "hidden_size",
            "head_dim": "head_dim",
            "n_inner": "intermediate_size",
            "norm_eps": "rms_norm_eps",
            "rope_theta": "rope_theta",
            "tie_embeddings": "tie_word_embeddings",
        },
        defaults={"head_dim": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False},
        fixed={"hidden_act": ("silu",), "attention_bias": (False,), "use_sliding_window": (False,)},
        dropouts=("attention_dropout",),
        modules={
            "embedding": ("model.embed_tokens",),
            "blocks.{}.attention_norm": ("model.layers.{}.input_layernorm",),
            "blocks.{}.attention.qkv": (
                "model.layers.{}.self_attn.q_proj",
                "model.layers.{}.self_attn.k_proj",
                "model.layers.{}.self_attn.v_proj",
            ),
            "blocks.{}.attention.q_norm": ("model.layers.{}.self_attn.q_norm",),
            "blocks.{}.attention.k_norm": ("model.layers.{}.self_attn.k_norm",),
            "blocks.{}.attention.out": ("model.layers.{}.self_attn.o_proj",),
            "blocks.{}.mlp_norm": ("model.layers.{}.post_attention_layernorm",),
            "blocks.{}.mlp.gate": ("model.layers.{}.mlp.gate_proj",),
            "blocks.{}.mlp.up": ("model.layers.{}.mlp.up_proj",),
            "blocks.{}.mlp.down": ("model.layers.{}.mlp.down_proj",),
            "norm": ("model.norm",),
            "head": ("lm_head",),
        },
    ),
}


# What a value of config.json may be, by the type of GPTConfig's own.
TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (float, int),
    "bool": (bool,),
    "str": (str,),
}


def read_config(theirs: dict) -> tuple[GPTConfig, Layout]:
    """GPTConfig and layout of a config.json. Raises UserError for what we have not."""
    kind = str(theirs.get("model_type"))
    require(kind in LAYOUTS, f"config.json: model_type={kind} cannot be read; {' and '.join(LAYOUTS)} can")
    layout = LAYOUTS[kind]
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}  # transformers 5; before it
    require(isinstance(rope, dict), f"config.json: rope_parameters={rope!r} is not an object")
    theirs = {**layout.defaults, **theirs, **rope}
    theirs["rope_type"] = theirs.get("rope_type", rope.get("type", "default"))
    theirs["layer_types"] = sorted(set(theirs.get("layer_types") or ["full_attention"]))
    common = {"rope_type": ("default",), "quantization_config": (None,), "layer_types": (["full_attention"],)}
    for name, allowed in {**layout.fixed, **common}.items():
        value = theirs.get(name, allowed[0])
        require(value in allowed, f"config.json: {name}={value} is not supported, only {allowed[0]}")
    types = {field.name: TYPES[str(field.type)] for field in fields(GPTConfig)}
    for ours, name in layout.sizes.items():
        require(name in theirs, f"config.json lacks {name}")
        right = type(theirs[name]) in types[ours]
        require(right, f"config.json: {name}={theirs[name]!r} is not {' or '.join(t.__name__ for t in types[ours])}")
    config = GPTConfig(**layout.kinds, **{ours: theirs[name] for ours, name in layout.sizes.items()})
    validate_model(config)
    return config, layout


def write_config(model: GPT, layout: Layout) -> dict:
    """The config.json of a model, with every size explicit."""
    ours = model.config
    inner = model.state_dict()["blocks.0.mlp.down.weight"].size(1)
    explicit = {"n_kv_head": ours.kv_heads, "head_dim": ours.head_width, "n_inner": inner}
    sizes = {theirs: explicit.get(name, getattr(ours, name)) for name, theirs in layout.sizes.items()}
    rope = {"rope_type": "default", "rope_theta": ours.rope_theta}
    return {
        "architectures": [layout.architecture],
        "model_type": next(name for name, known in LAYOUTS.items() if known is layout),
        "head_dim": ours.head_width,
        **sizes,
        **{name: allowed[0] for name, allowed in layout.fixed.items()},
        **dict.fromkeys(layout.dropouts, ours.dropout),
        **({"rope_parameters": rope} if "rope_theta" in layout.sizes else {}),
        "dtype": "float32",
    }


def layout_of(config: GPTConfig) -> Layout:
    """The layout that holds this model, or a UserError that says what each lacks."""
    lacks = {}
    for name, layout in LAYOUTS.items():
        wrong = [f"model.{k}={v}, not {getattr(config, k)}" for k, v in layout.kinds.items() if getattr(config, k) != v]
        if name == "gpt2" and config.kv_heads != config.n_head:
            wrong.append(f"model.n_kv_head={config.n_head}, not {config.kv_heads}")
        if name == "gpt2" and config.head_width * config.n_head != config.n_embd:
            wrong.append(f"model.head_dim x model.n_head={config.n_embd}, not {config.head_width * config.n_head}")
        if not wrong:
            return layout
        lacks[name] = f"{name} needs {' and '.join(wrong)}"
    raise UserError(f"no Hugging Face layout holds this model: {'; '.join(lacks.values())}")


def their_names(name: str, layout: Layout) -> list[str]:
    """The tensors in which a layout keeps our parameter `name`."""
    module, _, kind = name.rpartition(".")
    layer = re.search(r"\d+", module)
    template = module.replace(layer[0], "{}") if layer else module
    return [f"{theirs.format(layer and layer[0])}.{kind}" for theirs in layout.modules[template]]


def is_transposed(name: str, value: Tensor) -> bool:
    """Whether `transformers` keeps this matrix as [in, out]: those of GPT-2's Conv1D, c_attn, c_proj and c_fc."""
    return ".c_" in name and value.dim() == 2


def to_theirs(ours: dict[str, Tensor], config: GPTConfig, layout: Layout) -> dict[str, Tensor]:
    """Tensors named and shaped as in our state_dict -> as in theirs. A tied head is left out, as they do."""
    width, groups = config.head_width, config.kv_heads
    theirs = {}
    for name, value in ours.items():
        if name == "head.weight" and config.tie_embeddings:
            continue
        names = their_names(name, layout)
        sizes = [config.n_head * width, groups * width, groups * width] if len(names) > 1 else [len(value)]
        for their_name, part in zip(names, value.split(sizes), strict=True):
            theirs[their_name] = (part.T if is_transposed(their_name, part) else part).contiguous()
    return theirs


def from_theirs(theirs: dict[str, Tensor], config: GPTConfig, layout: Layout) -> dict[str, Tensor]:
    """The way back. Raises UserError if a tensor is missing or has another shape than the configuration says."""
    expected = GPT.undrawn(config).state_dict()
    ours: dict[str, Tensor] = {}
    for name, like in expected.items():
        if name == "head.weight" and config.tie_embeddings:
            ours[name] = ours["embedding.weight"]
            continue
        names = their_names(name, layout)
        for their_name in names:
            require(their_name in theirs, f"the weights lack {their_name}, which config.json asks for")
        parts = [theirs[n].T if is_transposed(n, theirs[n]) else theirs[n] for n in names]
        ours[name] = torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()
        shapes = list(ours[name].shape), list(like.shape)
        require(shapes[0] == shapes[1], f"{' + '.join(names)} has shape {shapes[0]}; config.json makes it {shapes[1]}")
    known = {n for name in expected for n in their_names(name, layout)}
    left = [name for name in theirs if name not in known and not re.search(r"\.(attn\.(masked_)?bias|inv_freq)$", name)]
    require(not left, f"the weights hold {next(iter(left), None)}, which config.json knows nothing of")
    return ours


def read_folder(folder: Path) -> Checkpoint:
    """The model and tokenizer of a Hugging Face folder, float32, in eval mode."""
    config, layout = read_config(read_json(folder / "config.json"))
    tokenizer = read_tokenizer(folder)
    size = tokenizer.vocab_size
    require(size <= config.vocab_size, f"its tokenizer has {size} tokens, its model only {config.vocab_size}")
    model = GPT.from_weights(config, from_theirs(read_tensors(folder), config, layout))
    return Checkpoint(folder, model.eval(), tokenizer, {"imported_from": str(folder)})


def read_json(file: Path) -> dict:
    """A JSON object, or a UserError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file.name} is not JSON: {error}") from error
    require(isinstance(content, dict), f"{file.name} is not a JSON object")
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by the names that the whole model has for them."""
    files = sorted(folder.glob("*.safetensors"))
    require(bool(files), "there is no .safetensors file; save the model as safetensors first")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file.name} cannot be read as safetensors; it may be damaged ({error})") from error
    # GPT-2's first checkpoints were saved without the head's part of the name.
    return {f"transformer.{n}" if re.match(r"(h|ln_f|wte|wpe)\.", n) else n: tensor for n, tensor in tensors.items()}


def export(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a folder that AutoModelForCausalLM and AutoTokenizer open. It appears whole or not at all."""
    config, tokenizer = checkpoint.model.config, checkpoint.tokenizer
    layout = layout_of(config)
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    require(free, f"output={folder} is there already; give a folder that is not, or an empty one")
    end = tokenizer.end_of_text
    special = {"bos_token_id": end, "eos_token_id": end}
    their_tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # the file as it is; AutoTokenizer would rebuild GPT-2's own
        "model_max_length": config.block_size,
        "clean_up_tokenization_spaces": False,
        "bos_token": END_OF_TEXT if end is not None else None,
        "eos_token": END_OF_TEXT if end is not None else None,
    }
    tensors = to_theirs(dict(checkpoint.model.state_dict()), config, layout)
    with whole_folder(folder) as temporary:
        for name, content in (
            ("config.json", write_config(checkpoint.model, layout) | special),
            ("generation_config.json", special),
            ("tokenizer_config.json", their_tokenizer),
        ):
            write_text(temporary / name, json.dumps(content, indent=2) + "\n")
        write_text(temporary / "tokenizer.json", tokenizer.to_json())
        write_text(temporary / "README.md", "\n".join(model_card(checkpoint, layout)) + "\n")
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "model.safetensors").chmod(0o644)  # save_file keeps it from everyone else


def model_card(checkpoint: Checkpoint, layout: Layout) -> Iterator[str]:
    """The lines of the README.md that says what the model is and where it came from."""
    model, about = checkpoint.model, checkpoint.about
    yield from ("---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [headwise]", "---", "")
    yield f"# {checkpoint.path.parent.parent.name if 'config' in about else checkpoint.path.name}"
    sizes = {k: v for k, v in asdict(model.config).items() if k.startswith("n_") and v is not None}
    yield ""
    yield f"A decoder-only transformer of {model.n_parameters():,} parameters in the layout of `{layout.architecture}`:"
    yield ", ".join(f"`{k}={v}`" for k, v in sizes.items()) + f", context {model.config.block_size} tokens,"
    yield f"vocabulary {model.config.vocab_size}."
    yield ""
    if "config" in about:
        run = about["config"]
        batch = run["data"]["global_batch_size"] or run["data"]["batch_size"]
        tokens = about["step"] * batch * model.config.block_size
        source = run["data"]["path"] or run["data"]["source"]
        yield "| trained with Headwise | |"
        yield "|---|---|"
        if run["init_from"]:
            yield f"| started from | {run['init_from']} |"
        yield f"| data | {source}, split and tokenizer {about['data']} |"
        yield f"| steps | {about['step']:,}, {tokens:,} tokens |"
        yield f"| validation loss | {about['val_loss']:.4f} nats per token |"
        yield f"| seed | {run['seed']} |"
        yield f"| code | {about['git_commit'] or 'no commit recorded'} |"
        yield ""
    elif "imported_from" in about:
        yield f"Its weights were read from {about['imported_from']} as they are."
        yield ""
    yield "```python"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    yield 'model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")'
    yield 'ids = tokenizer("The ", return_tensors="pt").input_ids'
    yield "print(tokenizer.decode(model.generate(ids, max_new_tokens=50)[0]))"
    yield "```"

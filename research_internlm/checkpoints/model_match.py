"""Whether a file of weights belongs to the model of a recipe: by its names and shapes, and by its manifest.

MindFormers loads what fits by name and leaves the rest of the network at random values, with at most a line
in a long log. So every name and shape is checked here, from the file's header, before anything is built. What
names and shapes cannot tell (rotary base, epsilon, heads of equal width) is in the manifest that from-hf
writes and merge passes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from research_internlm.checkpoints import hf_config, weight_names
from research_internlm.checkpoints.tensor_files import SUFFIXES, TensorFile
from research_internlm.data.families import FAMILIES, INTERNLM, by_config_type
from research_internlm.model import shape
from research_internlm.shared.errors import ToolkitError
from research_internlm.shared.files import read_manifest, require_file

_HF_PREFIXES = ("model.layers.0.self_attn.", "model.layers.0.attention.wqkv", "model.embed_tokens.")


def require_weights(path: str | Path, model_config: Mapping[str, Any], what: str = "--load_checkpoint"
                    ) -> None:
    """Checks a file of weights before MindSpore reads it; the arguments are those of `weights_problems`.

    Raises:
        ToolkitError: Missing, truncated, damaged, another model's, or recorded with other settings.
    """
    require_file(path, what)
    if problems := [*weights_problems(path, model_config, what)]:
        raise ToolkitError("; ".join(problems))


def weights_problems(path: str | Path, model_config: Mapping[str, Any], what: str = "--load_checkpoint"
                     ) -> Iterator[str]:
    """What keeps a model from taking these weights.

    Args:
        path: `--load_checkpoint`: a .ckpt or .safetensors file, or a folder that holds rank_N/*.ckpt. LoRA
            matrices and the optimizer's state may stand beside the weights.
        model_config: The recipe's `model.model_config`.
        what: What the file is to the user, for messages.

    Yields:
        One sentence a problem: no such file, another model's, incomplete, or recorded with other settings.
    """
    path = Path(path)
    wrong = hf_config.shape_problems(model_config)
    try:
        for file in _files_of(path, what):
            if wrong:
                raise ToolkitError(f"{what} {path} cannot be checked: in model.model_config, "
                                   f"{'; '.join(wrong)}")
            _require_model(file, model_config, what)
            require_recorded_config(file, model_config)
    except ToolkitError as error:
        yield str(error)


def _files_of(path: Path, what: str) -> list[Path]:
    """The weights file, or the newest of each rank's folder, which is the one MindFormers loads."""
    if not path.exists():
        raise ToolkitError(f"{what} {path} does not exist")
    if not path.is_dir():
        return [path]
    if (path / "config.json").is_file():
        raise ToolkitError(f"{what} {path} is a Hugging Face folder: convert it first with "
                           f"research_internlm/weights.py from-hf {path} base.ckpt")
    ranks = [sorted((file for file in folder.iterdir() if file.suffix in SUFFIXES.values()),
                    key=lambda file: file.stat().st_mtime) for folder in sorted(path.glob("rank_*"))
             if folder.is_dir()]
    if not ranks or not all(ranks):
        raise ToolkitError(f"{what} {path} is a folder, but holds no rank_N/*.ckpt (as a run's "
                           "checkpoint folder does); give a .ckpt or .safetensors file")
    return [files[-1] for files in ranks]


def _require_model(path: Path, model_config: Mapping[str, Any], what: str) -> None:
    with TensorFile(path, what) as file:
        entries = {name: entry.shape for name, entry in file.entries.items()
                   if not weight_names.is_training_state(name) and not weight_names.is_adapter(name)}
        unknown = [name for name, entry in file.entries.items() if entry.dtype is None and name in entries]
        adapter = any(weight_names.is_adapter(name) for name in file.entries)
    names = [*entries]
    if any(map(weight_names.is_peft, names)):
        raise ToolkitError(f"{what} {path} is a PEFT adapter, not the weights of a model")
    if any(weight_names.is_quantised(name) for name in names):
        raise ToolkitError(f"{what} {path} holds quantised weights (qweight, scales): download "
                           "the release that is not quantised")
    if unknown:
        raise ToolkitError(f"{what} {path} is damaged, or of a newer version: {', '.join(unknown[:3])} "
                           f"({len(unknown)} in all) are of a type that no weights have")
    if not names and adapter:
        raise ToolkitError(f"{what} {path} holds an adapter only (LoRA matrices without their "
                           "base): give the base weights, or merge with research_internlm/weights.py merge")
    wanted = weight_names.parameter_shapes(model_config)
    if model_config.get("tie_word_embeddings"):
        del wanted["lm_head.weight"]
        entries.pop("lm_head.weight", None)
    hint = "give the weights of the recipe's model, or the recipe of these weights"
    if any(name.startswith(_HF_PREFIXES) for name in names):
        hint = ("the names are Hugging Face's: convert the release with research_internlm/weights.py from-hf "
                "HF_DIR base.ckpt")
    weight_names.require_parameters(entries, wanted, f"{what} {path}", hint)


def require_recorded_config(path: str | Path, model_config: Mapping[str, Any]) -> None:
    """Checks a recipe against the settings recorded in the manifest beside a file of weights.

    Args:
        path: The weights; nothing is checked where they have no manifest or it records no settings.
        model_config: The recipe's `model.model_config`.

    Raises:
        ToolkitError: They differ, with both values of every setting that does.
    """
    manifest = read_manifest(path)
    recorded = manifest.get("model_config") if isinstance(manifest, dict) else None
    if not isinstance(recorded, Mapping):
        return
    if wrong := hf_config.shape_problems({**model_config, **recorded}):
        raise ToolkitError(f"the manifest of {path} records settings of no model: {'; '.join(wrong)}; make "
                           "the file again with research_internlm/weights.py")
    ours, theirs = computed_by(model_config), computed_by({**model_config, **recorded})
    differing = [f"{key} is {theirs[key]} there and {ours[key]} in the recipe"
                 for key in ours if theirs[key] != ours[key]]
    if differing:
        raise ToolkitError(f"{path} was made with other settings of the model (its manifest): "
                           f"{'; '.join(differing)}; set them in the recipe, as model.model_config.KEY=VALUE")


def computed_by(model_config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model that its outputs depend on, defaults filled in."""
    family = by_config_type(model_config.get("type")) or FAMILIES[INTERNLM]
    return {
        **{key: model_config[key] for key in ("hidden_size", "num_layers", "num_heads", "vocab_size")},
        "n_kv_heads": model_config.get("n_kv_heads") or model_config["num_heads"],
        "intermediate_size": shape.intermediate_size(model_config),
        "rms_norm_eps": float(model_config.get("rms_norm_eps") or family.rms_norm_eps),
        "theta": float(model_config.get("theta") or family.theta),
        "has_bias": shape.has_bias(model_config, "qkv_has_bias"),
    }

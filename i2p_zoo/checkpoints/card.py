"""The model card that is saved beside a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any
from urllib.parse import quote

import timm
from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from i2p_zoo.checkpoints.certificate_text import describe_certificate
from i2p_zoo.checkpoints.folder_files import is_edited as is_edited
from i2p_zoo.checkpoints.folder_files import sign
from i2p_zoo.checkpoints.run_text import describe_run, list_results
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.names import PREFIX
from i2p_zoo.sparse.point_features import count_channels, parse_features, stored_features

# https://huggingface.co/docs/hub/repositories-licenses; the Hub refuses a card with any other.
_HUB_LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
    artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
    cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0
    epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0
    odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr unknown other
    """.split()
)
# The last one is that of Meta's SEER models, "solely for your non-commercial research purposes".
_NONCOMMERCIAL = re.compile(r"\bnc\b|non-?commercial|^seer-license$")

_FOR_CLOUDS = 'inflation="average", stem="point", skip_downsamples=3, voxel_size=0.07'  # as `i2p_zoo.experiments.Setup`
_FOR_CLOUDS_ON_A_CANVAS = 'inflation="average", stem="point", voxel_size=0.1'


def write_card(
    config: Mapping[str, Any],
    parameters: int,
    picture: str | None = None,
    *,
    run: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> str:
    """Returns the text of a card.

    Args:
        config: as `i2p_zoo.checkpoints.saving.describe_model` returns it. Without `weights` it is the card of a network yet
            to be converted, whose certificate was measured with random weights.
        parameters: of the 3D network.
        picture: name of a file beside the card that shows inflated kernels.
        run: that trained the network: what its metrics.json holds.
        name: that `from_pretrained` finds the network under; None for the one that the config tells, or none.
    """
    i2p, licence, features = config["i2p"], _licence(config), set(parse_features(config["i2p"]["settings"]["features"]))
    left_out = {
        "adapter": not i2p["base"],
        "canvas": not i2p["settings"].get("canvas"),
        "warning": not is_noncommercial(licence),
        "run": not run,
        "command": not (run and (run.get("recipe") or {}).get("command")),
        "picture": not picture,
        # A U-Net and a pyramid classifier are finetuned otherwise, and a feature extractor has no classifier.
        "finetune": not features <= {"xyz", "ones"} or config["num_classes"] is None or i2p["unet"] or i2p.get("pyramid"),
    }
    facts = {**_describe(config, features, name), "parameters": f"{parameters:,d}", "picture": quote(picture or "")}
    if run:
        facts |= {key: _cell(text) for key, text in describe_run(run).items()}
    template = resources.files("i2p_zoo.checkpoints").joinpath("card.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"<!-- section: (\w+) -->\n", template)  # name, text, name, text, ...
    text = "".join(section for name, section in zip(parts[::2], parts[1::2], strict=True) if not left_out.get(name))
    return sign(f"---\n{_metadata(config, run, facts['title']).to_yaml()}\n---\n{Template(text).substitute(facts)}")


def _describe(config: Mapping[str, Any], features: set[str], name: str | None) -> dict[str, Any]:
    """What the template says of a network, by the template's names."""
    i2p, settings, base = config["i2p"], config["i2p"]["settings"], config["i2p"]["base"]
    title = name or (f"Adapter of {config['architecture']}" if base else _zoo_name(config) or config["architecture"])
    name = name or _zoo_name(config)
    shown = name or "my-model"
    arguments = f'"{shown}", num_classes=len(train_set.classes)'
    architecture = config["architecture"].removeprefix(PREFIX)
    canvas = settings.get("canvas")
    for_clouds = _FOR_CLOUDS_ON_A_CANVAS if canvas else _FOR_CLOUDS
    tag = config["pretrained_cfg"].get("tag") if "repo" in i2p["source"] else None
    return {
        **settings,
        "title": title,
        "timm_name": f"{architecture}.{tag}" if tag else architecture,
        "base": f"`{base['name']}`" + (f" at {base['commit']}" if base["commit"] else "") if base else "",
        "license": _cell(_licence(config) or "not stated"),
        "num_classes": config["num_classes"],
        "in_chans": i2p["in_chans"],
        "inflation": settings["inflation"] + (f" to depth {settings['depth']}" if settings["depth"] else ""),
        "storage": "2D where they are pure inflations" if i2p["compact"] else "3D: output channels, z, y, x, input channels",
        "source": _cell(_describe_source(i2p["source"], bool(i2p["weights"]))),
        "certificate": _cell(_describe_certificate(config)),
        "canvas": " x ".join(map(str, canvas or ())),
        "training": 'optimizer="adamw", learning_rate=0.0005' if canvas else "learning_rate=0.2",
        "name": shown,
        "comment": "" if name else "  # the repository, or a folder with its files",
        "outputs": "logits" if config["num_classes"] else "features",
        "cloud": _example_cloud(features, i2p["in_chans"]),
        "arguments": arguments if settings["stem"] != "image" else f"\n    {arguments}, {for_clouds}\n",
    }


def is_noncommercial(licence: str | None) -> bool:
    """Whether a licence's identifier says that it forbids commercial use."""
    return bool(licence) and _NONCOMMERCIAL.search(str(licence).lower()) is not None


def _metadata(config: Mapping[str, Any], run: Mapping[str, Any] | None, title: str) -> ModelCardData:
    """The front matter: what the Hub knows goes in as it is, another licence as "other" with its name."""
    results = list_results(run) if run else []
    licence, base = _licence(config), config["i2p"]["base"]
    unknown = licence is not None and licence.lower() not in _HUB_LICENSES
    task = "segmentation" if config["i2p"]["unet"] else "classification" if config["num_classes"] else "feature-extraction"
    return ModelCardData(
        library_name="i2p-zoo",
        license="other" if unknown else licence and licence.lower(),
        license_name=licence if unknown else None,
        base_model=_repository((base or {}).get("name")) or _repository(config["i2p"]["source"].get("repo")),
        pipeline_tag=f"image-{task}",
        tags=["point-cloud", "3d", "timm", *([] if config["i2p"]["settings"].get("canvas") else ["sparse-convolution"])],
        model_name=title if results else None,
        eval_results=results or None,
    )


def _repository(name: str | None) -> str | None:
    """The name, where a repository of the Hub can have it: a base may be a folder."""
    try:
        validate_repo_id(name or "")
    except HFValidationError:
        return None
    return name if "/" in (name or "") else None


def _licence(config: Mapping[str, Any]) -> str | None:
    licence = config["i2p"]["source"].get("license") or config["pretrained_cfg"].get("license")
    return str(licence) if licence else None


def _zoo_name(config: Mapping[str, Any]) -> str | None:
    """The name that `from_pretrained` finds the network under, if it is one of the zoo as converted."""
    i2p, name, tag = config["i2p"], config["architecture"], config["pretrained_cfg"].get("tag")
    architecture = name.removeprefix(PREFIX)
    default = timm.get_pretrained_cfg(architecture)
    tagged = "repo" in i2p["source"] and tag and (default is None or default.tag != tag)
    try:
        pretrained = timm.get_pretrained_cfg(f"{architecture}.{tag}") if tagged else default
    except RuntimeError:  # a tag that this timm does not have
        return None
    if pretrained is None or i2p["base"] or config["model_args"] or not {"repo", "package"} & i2p["source"].keys():
        return None
    settings = Settings(**i2p["settings"]).changed(rgb_mean=None, rgb_std=None)  # which are the image network's
    converted = (Settings(inflation="center"), pretrained.input_size[0], pretrained.num_classes)
    if (settings, i2p["in_chans"], config["num_classes"]) != converted:
        return None
    return f"{name}.{tag}" if tagged else str(name)


def _cell(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()).replace("|", r"\|")


def _describe_source(source: Mapping[str, Any], converted: bool) -> str:
    if not source:
        return "not stated"
    name = source.get("repo") or source.get("package") or source.get("file") or "a timm model in hand"
    if not converted:
        return f"{name}; commit and sha256 are filled in on publishing"
    commit = source.get("commit") or source.get("version")
    return f"{name}{f' at {commit}' if commit else ''}, sha256 {source.get('sha256', 'not known')}"


def _describe_certificate(config: Mapping[str, Any]) -> str:
    i2p = config["i2p"]
    text = describe_certificate(i2p["certificate"], i2p["settings"]["inflation"])
    if not i2p["certificate"] or i2p["weights"]:
        return text
    return f"{text} with random weights; measured with the real ones on publishing"


def _example_cloud(features: set[str], in_chans: int) -> str:
    """A cloud that a network with these voxel features takes, as code."""
    extra = in_chans - count_channels(features) if "extra" in features else 0
    points = f"np.random.rand(1000, {3 + extra})"
    attributes = [f'"{name}": np.random.rand(1000, {count_channels([name])})' for name in sorted(stored_features([*features]))]
    return "{" + ", ".join([f'"points": {points}', *attributes]) + "}" if attributes else points

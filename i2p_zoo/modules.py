"""What is asked of any network, whatever its class."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from i2p_zoo.errors import InvalidInputError


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts a network into eval mode for a while, and each of its modules back into its own mode then.

    What modules keep of the weights in eval mode, as LeViT's tables of biases, is dropped again: the weights may train on.
    """
    training = {module: module.training for module in model.modules()}
    caches = [
        (module, name, cache, dict(cache))
        for module in training
        for name, cache in vars(module).items()
        if _is_cache(name, cache)
    ]
    try:
        model.eval()
        yield
    finally:
        for module, state in training.items():
            module.training = state
        for module, name, cache, before in caches:  # LeViT's `train` puts another dictionary in its place
            cache.clear()
            cache.update(before)
            vars(module)[name] = cache


def _is_cache(name: str, value: Any) -> bool:
    return type(value) is dict and not name.startswith("_") and all(isinstance(each, Tensor) for each in value.values())


def classifier_of(model: Any) -> nn.Module | None:
    """Returns timm's classifier of a network, two of them (of a distilled one) as a list; None where there is none."""
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    if isinstance(classifier, tuple) and all(isinstance(part, nn.Module) for part in classifier):
        return nn.ModuleList(classifier)
    return classifier if isinstance(classifier, nn.Module) else None


@contextlib.contextmanager
def probe_mode(model: nn.Module) -> Iterator[None]:
    """Lets a network be run to learn how it is made, without a trace.

    It is in eval mode, torch's random numbers are as before afterwards, and the forward hooks of its modules are set aside,
    also those that timm gathers feature maps by; hooks that are registered meanwhile go again.
    """
    names = ("_forward_hooks", "_forward_pre_hooks")
    kept = {module: {name: dict(getattr(module, name)) for name in names} for module in model.modules()}
    try:
        for module in kept:
            for name in names:
                getattr(module, name).clear()
        with eval_mode(model), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, hooks in kept.items():
            for name in names:
                getattr(module, name).clear()
                getattr(module, name).update(hooks[name])


def find_classifier(model: Any) -> nn.Module:
    """Returns timm's classifier of a network, as `classifier_of`; raises InvalidInputError where there is none."""
    classifier = classifier_of(model)
    if classifier is None or not list(classifier.parameters()):
        raise InvalidInputError(f"{type(model).__qualname__} has no classifier; create it with num_classes of 1 or more.")
    return classifier


def head_name(model: Any) -> str | None:
    """Returns the qualified name of timm's classifier of a network, or None where there is none, or several."""
    classifier = classifier_of(model)
    return next((name for name, module in model.named_modules() if name and module is classifier), None)


def class_names(model: Any) -> tuple[str, ...]:
    """Returns the names of a network's classes, which timm calls `label_names`.

    Empty where it notes none, or those of another number of classes than it has now.
    """
    names = tuple((getattr(model, "pretrained_cfg", None) or {}).get("label_names") or ())
    return names if count_classes(model) in (None, len(names)) else ()


def count_classes(model: Any) -> int | None:
    """Returns how many classes a network has: as many as its classifier gives, a user's own too; None where that is unknown."""
    classifier = classifier_of(model)
    outputs = getattr(classifier, "out_features", getattr(model, "num_classes", None))
    return outputs if isinstance(outputs, int) else None


def set_class_names_(model: Any, names: Iterable[str], codes: Iterable[int] = ()) -> None:
    """Notes the names of a network's classes and the numbers that files give them, which its checkpoints keep.

    Both in place of those of other classes that it was of before: where there are no names, or no codes, it has none then.
    """
    noted = {"label_names": list(names), "label_codes": list(codes)}
    others = {key: value for key, value in (getattr(model, "pretrained_cfg", None) or {}).items() if key not in noted}
    model.pretrained_cfg = {**others, **{key: values for key, values in noted.items() if values}}


def class_codes(model: Any) -> tuple[int, ...]:
    """Returns the numbers that files give a network's classes, such as LAS classification codes; from 0 where it notes none."""
    codes = (getattr(model, "pretrained_cfg", None) or {}).get("label_codes")
    if isinstance(codes, list | tuple) and len(codes) == model.num_classes and all(type(code) is int for code in codes):
        return tuple(codes)
    return tuple(range(model.num_classes))


def has_other_classes(model: Any, outputs: int, classes: Sequence[str]) -> bool:
    """Whether a network of so many outputs has another number of classes than these or, where it notes them, other names."""
    return outputs != len(classes) or class_names(model) not in ((), tuple(classes))


def image_channels(model: nn.Module) -> int:
    """Returns how many channels a 2D network's image has: what timm notes, else what the first convolution reads."""
    noted = getattr(model, "in_chans", None)
    return noted if isinstance(noted, int) else next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)


def image_size(model: Any) -> tuple[int, int] | None:
    """Returns the (height, width) of a 2D network's image, inside timm's wrapper for feature maps too.

    It is what the network or its patch embedding was made for (timm's `img_size`), else what timm's configuration states;
    None where neither says.
    """
    module = getattr(model, "model", model)
    sizes = [getattr(part, "img_size", None) for part in (getattr(module, "patch_embed", None), module)]
    sizes.append(((getattr(module, "pretrained_cfg", None) or {}).get("input_size") or ())[-2:])
    for size in sizes:
        sides = (size, size) if isinstance(size, int) else size
        if isinstance(sides, tuple | list) and len(sides) == 2 and all(isinstance(side, int) for side in sides):
            return (sides[0], sides[1])
    return None


def unwrap(model: Any) -> Any:
    """Returns the network inside the wrappers of torch and timm: DataParallel, `torch.compile`, averaged weights."""
    while isinstance(model, nn.Module) and not hasattr(type(model), "to_config"):
        inner = [part for name, part in model.named_children() if name in ("module", "_orig_mod", "ema")]
        if len(inner) != 1 or len(list(model.children())) != 1:
            break
        model = inner[0]
    return model


def view_modules(model: nn.Module) -> set[nn.Module]:
    """Returns the modules of a pyramid classifier's views, whose 2D network sees images; of another network there are none."""
    views = getattr(model, "views", None)
    return set(views.modules()) if isinstance(views, nn.Module) else set()

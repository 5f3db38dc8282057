"""The ledger: every timm architecture, certified with random weights or refused with the reason, in i2p_zoo/zoo.json."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from tqdm import tqdm

import i2p_zoo
from i2p_zoo.certificate import Certificate, certify
from i2p_zoo.errors import UnsupportedError
from i2p_zoo.inflation import inflate, inflate_structure
from i2p_zoo.random_models import create_random_model, example_images

LEDGER = Path(i2p_zoo.__file__).with_name("zoo.json")
LARGEST_IMAGE = 128
"""Edge in pixels of the largest image that the ledger's certificates are measured on, where the architecture takes any size."""

Record = dict[str, Any]


def measure(architecture: str) -> Record:
    """Certifies one architecture, or tells why it has no sparse counterpart.

    Args:
        architecture: timm's name.

    Returns:
        Class, archetype, number of parameters, and either the counts of tensors by rule, the relative errors in float32 and
        float64, the images they were measured on and `passed`, or `refused`, the first line of the error. Any other error
        is `error`, and not passed.
    """
    start = time.perf_counter()
    with torch.device("meta"):
        skeleton = timm.create_model(architecture)
    record: Record = {
        "class": type(skeleton).__name__,
        "archetype": archetype(skeleton),
        "parameters": sum(p.numel() for p in skeleton.parameters()),
    }
    try:
        inflate_structure(skeleton)
        source = create_random_model(architecture)
        network: Any = inflate(source)
        certificate = _certify(source, network)
    except UnsupportedError as error:
        return {**record, "refused": str(error).split("\n")[0].rstrip(":")}
    except Exception as error:  # one architecture's bug must not end the sweep; it is listed as failed
        return {**record, "passed": False, "error": f"{type(error).__name__}: {error}"}
    counts = network.report.counts()
    return {
        **record,
        "inflated": counts["inflated"],
        "copied": counts["copied"],
        "unmapped": len(source.state_dict()) - counts["inflated"] - counts["copied"],
        "images": list(certificate.images),
        **{dtype: float(f"{error:.2e}") for dtype, error in certificate.errors.items()},
        "passed": certificate.passed,
        "seconds": round(time.perf_counter() - start, 1),
    }


def archetype(model: nn.Module) -> str:
    """Names what a model is made of: its class and a digest of the set of its leaf types. Equal names, equal structure."""
    leaves = sorted({f"{type(m).__module__}.{type(m).__qualname__}" for m in model.modules() if not list(m.children())})
    return f"{type(model).__name__}-{hashlib.sha256(' '.join(leaves).encode()).hexdigest()[:6]}"


def _certify(source: nn.Module, network: nn.Module) -> Certificate:
    """Certifies on images of at most `LARGEST_IMAGE`, or of timm's size where smaller ones have no sparse counterpart."""
    images = example_images(source)
    try:
        return certify(source, network, images[:, :, :LARGEST_IMAGE, :LARGEST_IMAGE].contiguous())
    except UnsupportedError:
        return certify(source, network, images)


def update_ledger(architectures: Iterable[str], path: Path = LEDGER, processes: int = 2, fresh: bool = False) -> dict[str, Any]:
    """Measures architectures and writes the ledger after each, so that an interrupted run is taken up where it stood.

    Args:
        architectures: timm's names; those that the ledger has from this timm are passed over, unless `fresh`.
        path: of the ledger.
        processes: how many measure side by side, one thread each.
        fresh: measure again what the ledger has.

    Returns:
        The ledger.
    """
    ledger = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if ledger.get("timm") != timm.__version__:
        ledger = {"timm": timm.__version__, "models": {}}
    wanted = [name for name in architectures if fresh or name not in ledger["models"]]
    bar = tqdm(_measure_all(wanted, processes), total=len(wanted), desc="certifying", unit="model")
    for name, record in bar:
        ledger["models"][name] = record
        write_ledger(ledger, path)
        bar.set_postfix_str(name)
    return ledger


def _measure_all(names: list[str], processes: int) -> Iterator[tuple[str, Record]]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker) as pool:
        futures = {pool.submit(measure, name): name for name in names}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()


def _start_worker() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="timm")


def write_ledger(ledger: dict[str, Any], path: Path) -> None:
    """Writes a ledger, a line a model in the order of names, to a temporary file that is then renamed."""
    lines = [f"{json.dumps(name)}: {json.dumps(record)}" for name, record in sorted(ledger["models"].items())]
    text = f'{{"timm": {json.dumps(ledger["timm"])}, "models": {{\n' + ",\n".join(lines) + "\n}}\n"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)

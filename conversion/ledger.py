"""The ledger: every timm architecture, certified with random weights or refused with the reason, in i2p_zoo/zoo/ledger.json."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import json
import multiprocessing
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from tqdm import tqdm

import i2p_zoo
from conversion.cutting import create_cut_model, cut_stages_
from i2p_zoo.errors import I2PError, InvalidInputError, UnsupportedError
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.structure import inflate_structure
from i2p_zoo.networks.point_cloud_model import inflate
from i2p_zoo.networks.timm_models import (
    create_random_model,
    create_timm_model,
    example_images,
    randomize_statistics_,
    widen_weights_,
)
from i2p_zoo.sparse.tokens.site_tokens import became_tokens
from i2p_zoo.sparse.voxelization import image_to_plane
from i2p_zoo.staging import replacing
from i2p_zoo.wording import count_of
from i2p_zoo.zoo.certificate import TOLERANCES, certify
from i2p_zoo.zoo.measurement import outputs_of

LEDGER = Path(i2p_zoo.__file__).parent / "zoo" / "ledger.json"
LARGEST_IMAGE = 128
"""Edge in pixels of the largest image that a convolutional network's certificate is measured on; others see their own size."""

LEAST_RESPONSE = 2e-4
"""A convolutional network whose outputs other images move by less forgets them: its statistics are drawn centred."""

MEMORY = 20 * 2**30
"""Bytes that the networks being measured may take, all processes together; activations and libraries come on top."""

Record = dict[str, Any]


def measure(architecture: str, memory: MemoryBudget | None = None) -> Record:
    """Certifies one architecture, or notes why it has no sparse counterpart.

    Args:
        architecture: timm's name.
        memory: shared with the processes beside this one; `MEMORY` alone by default.

    Returns:
        Class, archetype, number of parameters, and either the counts of tensors by rule, the relative errors in float32 and
        float64, the images they were measured on, the `response`, the `shift` and `passed`, or `refused`, the reason. Any other
        error is `error`, and not passed. Where the networks do not fit the memory, all figures but the parameters' number are
        those of the same network with two blocks a stage (`conversion.cutting`), and `cut` is true.
    """
    start = time.perf_counter()
    skeleton = create_timm_model(architecture, structure=True)
    record: Record = {
        "class": type(skeleton).__name__,
        "archetype": archetype(skeleton),
        "parameters": sum(p.numel() for p in skeleton.parameters()),
    }
    try:
        create: Callable[[str], nn.Module] = create_random_model
        size = peak_memory(skeleton)
        if size > (memory.total if memory else MEMORY):
            record["cut"] = True
            cut_stages_(skeleton)
            create, size = create_cut_model, peak_memory(skeleton)
        with memory.reserve(size) if memory else contextlib.nullcontext():
            record |= _measure_pair(create(architecture))
    except UnsupportedError as error:
        return {**record, "refused": reason(error)}
    except Exception as error:  # one architecture's bug must not end the sweep; it is listed as failed
        return {**record, "passed": False, "error": reason(error)}
    return {**record, "seconds": round(time.perf_counter() - start, 1)}


def _measure_pair(source: nn.Module) -> Record:
    network: Any = inflate(source)
    images = example_images(source)
    if network.settings.canvas is None:
        images = _crop(source, network, images)
        if measure_responses(source, images)["response"] < LEAST_RESPONSE:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                randomize_statistics_(source, images, centred=True)
            network = inflate(source)
    else:  # it computes on tokens
        del network
        widen_weights_(source, images)
        network = inflate(source)
    certificate = certify(source, network, images)
    counts = network.report.counts()
    return {
        "inflated": counts["inflated"],
        "copied": counts["copied"],
        "unmapped": len(source.state_dict()) - certificate.mapped,
        "mapped": certificate.mapped,
        "seen": certificate.seen,
        "unseen": list(certificate.unseen),
        "unmeasured": list(certificate.unmeasured),
        "images": list(certificate.images),
        **{dtype: float(f"{certificate.errors[dtype]:.2e}") for dtype in TOLERANCES},
        **{key: float(f"{value:.1e}") for key, value in measure_responses(source, images).items()},
        "passed": certificate.passed,
    }


@torch.no_grad()
def _crop(source: nn.Module, network: Any, images: Tensor) -> Tensor:
    """Returns images of at most `LARGEST_IMAGE`, or as they are where the networks take no other size, or only for tokens."""
    small = images[:, :, :LARGEST_IMAGE, :LARGEST_IMAGE].contiguous()
    plane = image_to_plane(small, axis=network.settings.axis)
    try:
        source(small)
        network(plane)
    except Exception:  # any error of a network that takes no other size than its own
        return images
    return images if became_tokens(plane) else small


@torch.no_grad()
def measure_responses(source: nn.Module, images: Tensor) -> dict[str, float]:
    """Measures how far other images move a 2D network's outputs, relative to the largest: what an error must be far below.

    Returns:
        "response": of other images; "shift": of the same, rolled by half their height and width, which a network that forgets
        positions cannot tell from what they were.
    """
    shifts = tuple(edge // 2 for edge in images.shape[2:])
    others = {
        "response": torch.randn(images.shape, generator=torch.Generator().manual_seed(1)),
        "shift": images.roll(shifts, dims=(2, 3)),
    }
    expected = outputs_of(source, images, axis=None)[-1]
    moved = {key: outputs_of(source, other, axis=None)[-1] for key, other in others.items()}
    return {key: float((output - expected).abs().max() / expected.abs().max()) for key, output in moved.items()}


def reason(error: Exception) -> str:
    """Returns an error's first line without the figures of the tensors it met; an error that is not ours with its type."""
    text = re.sub(r"SparseTensor\((?:[^()]|\([^()]*\))*\)", "a sparse tensor", str(error).split("\n")[0]).rstrip(":")
    return text if isinstance(error, I2PError) else f"{type(error).__name__}: {text}"


def peak_memory(model: nn.Module) -> int:
    """Returns the bytes that certifying takes: the 2D network and its inflation in float32, and the larger in float64."""
    sizes = [sum(int(t.numel()) for t in net.state_dict().values()) for net in (model, inflate_structure(model, Settings()))]
    return 4 * sum(sizes) + 8 * max(sizes)


class MemoryBudget:
    """Bytes that several processes share: one that needs more than is free waits.

    Args:
        total: bytes.
        context: of multiprocessing.
    """

    def __init__(self, total: int, context: Any) -> None:
        self.total = total
        self._free = context.Value("q", total, lock=False)
        self._changed = context.Condition()

    @contextlib.contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Holds `size` bytes, or all there are, while the block runs."""
        size = min(size, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self._free.value >= size)
            self._free.value -= size
        try:
            yield
        finally:
            with self._changed:
                self._free.value += size
                self._changed.notify_all()


def archetype(model: nn.Module) -> str:
    """Names what a model is made of: its class and a digest of the set of its leaf types. Equal names, equal structure."""
    leaves = sorted({f"{type(m).__module__}.{type(m).__qualname__}" for m in model.modules() if not list(m.children())})
    return f"{type(model).__name__}-{hashlib.sha256(' '.join(leaves).encode()).hexdigest()[:6]}"


def update_ledger(
    architectures: Iterable[str],
    path: Path = LEDGER,
    processes: int = 2,
    memory: int = MEMORY,
    fresh: bool = False,
    everything: bool = False,
) -> dict[str, Any]:
    """Measures architectures and writes the ledger after each, so that an interrupted run goes on where it stopped.

    Args:
        architectures: timm's names; those that the ledger has from this timm are passed over, unless `fresh`.
        path: of the ledger.
        processes: how many measure side by side, one thread each.
        memory: bytes that they share; what does not fit is cut.
        fresh: measure again what the ledger has.
        everything: the architectures are all of timm's, so that a ledger of another timm may be replaced.

    Returns:
        The ledger.

    Raises:
        InvalidInputError: the ledger is of another timm, and only some architectures are to be measured; or the system ended a
            process, as it does where memory runs out.
    """
    empty = {"timm": timm.__version__, "models": {}}
    ledger = json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty
    if ledger.get("timm") != timm.__version__:
        if not everything:
            count = len(ledger.get("models", ()))
            raise InvalidInputError(
                f"{path} holds {count_of(count, 'architecture')} of timm {ledger.get('timm')!r}, and timm "
                f"{timm.__version__!r} is installed; a ledger is of one version. Install that one, or measure every "
                "architecture again with --all."
            )
        ledger = empty
    unmeasured = [name for name in architectures if fresh or name not in ledger["models"]]
    bar = tqdm(_measure_all(unmeasured, processes, memory), total=len(unmeasured), desc="certifying", unit="model")
    try:
        for name, record in bar:
            ledger["models"][name] = record
            write_ledger(ledger, path)
            bar.set_postfix_str(name)
    except BrokenProcessPool:
        raise InvalidInputError(
            f"The system ended a process that measured, as it does where memory runs out; {processes} of them shared "
            f"memory={memory >> 30} GiB, and activations come on top. {path} keeps what was measured: run the same again with "
            "less --memory or fewer --processes."
        ) from None
    return ledger


def _measure_all(names: list[str], processes: int, memory: int) -> Iterator[tuple[str, Record]]:
    context = multiprocessing.get_context("spawn")
    budget = MemoryBudget(memory, context)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=(budget,)) as pool:
        futures = {pool.submit(_measure_in_worker, name): name for name in names}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()


_memory: MemoryBudget | None = None


def _start_worker(memory: MemoryBudget) -> None:
    global _memory
    _memory = memory
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="timm")


def _measure_in_worker(architecture: str) -> Record:
    """Measures, then gives freed memory back to the system, which glibc by itself does not for blocks of less than 32 MiB."""
    try:
        return measure(architecture, _memory)
    finally:
        gc.collect()
        if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)


def write_ledger(ledger: dict[str, Any], path: Path) -> None:
    """Writes a ledger, a line a model in the order of names, in place of a file, or leaves that as it was."""
    lines = [f"{json.dumps(name)}: {json.dumps(record)}" for name, record in sorted(ledger["models"].items())]
    text = f'{{"timm": {json.dumps(ledger["timm"])}, "models": {{\n' + ",\n".join(lines) + "\n}}\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")

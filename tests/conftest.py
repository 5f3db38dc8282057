"""Fixtures: a Hub on loopback, and processes that run the real Hub client against it.

`HF_ENDPOINT` and its like are frozen when huggingface_hub is imported, so a client is a process of its own. It costs
seconds to start and serves a whole session; each test gives it a folder, caches and a Hub that are new.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hub_server import Hub
from tests.windows_files import forbid_changes_in_use

# Before torch is imported, here and in the processes that tests start: OpenMP threads that wait for one another by spinning
# make these small networks many times slower on a machine that does anything else. Tests of threads set their number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Runs are compared bit for bit with others on the CPU, where they are sent on a machine with a GPU too.
os.environ.setdefault("ACCELERATE_USE_CPU", "true")

# Where there is no NVIDIA or AMD GPU, Triton's kernels run in its interpreter; it reads this when it is imported.
if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")):
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collects no garbage while what stays is made, a million objects, and then less often and out of new ones alone.

    Each full collection looks through all objects that are not frozen.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000)
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def hand_memory_back() -> Iterator[None]:
    """Hands freed memory back after each file: commands, run in this process, have it kept until the process ends."""
    yield
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def fingerprint(model: Any) -> str:
    """A digest of every tensor's name, dtype, shape and bits."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def output(model: Any) -> str:
    """A digest of what a network computes for a few random voxels."""
    import torch

    from tests.helpers import random_cloud

    with torch.no_grad():
        result = model(random_cloud(model.in_chans, voxels=60, extent=30, dtype=torch.float32))
    return hashlib.sha256(result.numpy().tobytes()).hexdigest()


class Client:
    """A process with the real Hub client; its calls return what `_load`, `_convert` and so on return, or the error.

    Attributes:
        file_limit: the most bytes that a file may get in the next call, as on a full disk.
    """

    def __init__(self, home: Path, endpoint: str, **environment: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "I2P_")) and not k.lower().endswith("_proxy")}
        own = {
            "HF_HOME": home,
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_XET": 1,
            "HF_HUB_DISABLE_TELEMETRY": 1,
            "NO_PROXY": "*",
        }
        self.folder = home
        self.file_limit: int | None = None
        home.mkdir(parents=True)
        self._errors = home / "stderr.txt"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.conftest"],
                cwd=Path(__file__).parents[1],
                env={**clean, **{k: str(v) for k, v in {**own, **environment}.items()}},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def use(self, folder: Path) -> Client:
        """Sets where the next calls run and keep their caches; returns the client itself."""
        self.folder = folder
        return self

    def load(self, name: str, environ: dict[str, str] | None = None, **options: Any) -> SimpleNamespace:
        """`i2p_zoo.from_pretrained` as a fingerprint and a few attributes; with `run` also a digest of its outputs."""
        return self._call("load", environ, name=name, **options)

    def convert(self, name: str, folder: str) -> SimpleNamespace:
        """`i2p_zoo.convert`, likewise, with the steps told."""
        return self._call("convert", None, name=name, folder=folder)

    def fetch(self, repo: str, *names: str, **options: Any) -> SimpleNamespace:
        """`fetch_files`: commit, paths and what was tried."""
        return self._call("fetch", None, repo=repo, names=names, **options)

    def push(self, folder: Path, repo: str, **options: Any) -> SimpleNamespace:
        """`i2p_zoo.push_folder`: the plan, its files as a dict of actions."""
        return self._call("push", None, folder=folder, repo=repo, **options)

    def push_adapter(self, base: str, repo: str, **options: Any) -> SimpleNamespace:
        """Loads a network with a new classifier and pushes what is new; the network as `load` tells it."""
        return self._call("push_adapter", None, base=base, repo=repo, **options)

    def timm(self, name: str) -> SimpleNamespace:
        """`timm.create_model(name, pretrained=True)`; what it returns is not told."""
        return self._call("timm", None, name=name)

    def api(self, method: str, **options: Any) -> SimpleNamespace:
        """A method of `HfApi`; what it returns is `result`.

        `operations` of a commit are given as pairs: the name of the class and its arguments.
        """
        if "download" in method:
            options.setdefault("cache_dir", self.folder / "hub")
        return self._call("api", None, method=method, options=options)

    def _call(self, function: str, environ: dict[str, str] | None, **arguments: Any) -> SimpleNamespace:
        self.folder.mkdir(parents=True, exist_ok=True)
        environ = {"I2P_ZOO_CACHE": str(self.folder / "zoo"), "I2P_ZOO_ORG": "i2p-zoo", **(environ or {})}
        if function in ("load", "fetch"):
            arguments.setdefault("cache_dir", str(self.folder / "hub"))
        request = {"function": function, "folder": str(self.folder), "environ": environ, "arguments": arguments}
        request["file_limit"], self.file_limit = self.file_limit, None
        print(json.dumps(request, default=str), file=self._process.stdin, flush=True)
        reply = self._process.stdout.readline()
        assert reply, f"the client died:\n{self._errors.read_text()[-3000:]}"
        return SimpleNamespace(**json.loads(reply))

    def close(self) -> None:
        """Ends the process, which has nothing to put in order."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def files_in_use(monkeypatch):
    """Windows' rule: this process cannot replace, rename or delete what it has open or mapped."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs Linux's list of the files in use")
    forbid_changes_in_use(monkeypatch)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    from matplotlib.figure import Figure

    saved = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: saved.append(self) or save(self, *a, **k))
    return saved


@pytest.fixture(scope="session")
def _hub():
    with Hub() as hub:
        yield hub


@pytest.fixture
def hub(_hub):
    """An empty Hub."""
    _hub.reset()
    return _hub


@pytest.fixture(scope="session")
def _start(tmp_path_factory):
    clients: dict[str, Client] = {}

    def start(name: str, endpoint: str, **environment: str) -> Client:
        if name not in clients:
            clients[name] = Client(tmp_path_factory.mktemp("clients") / name, endpoint, **environment)
        return clients[name]

    yield start
    for client in clients.values():
        client.close()


@pytest.fixture
def client(hub, _start, tmp_path):
    """A client of `hub` with empty caches."""
    return _start("online", hub.url).use(tmp_path)


@pytest.fixture
def second_client(hub, _start, tmp_path):
    """Another process with the same caches as `client`."""
    return _start("second", hub.url).use(tmp_path)


@pytest.fixture
def load_at_once(hub, client, second_client):
    """Loads a network in two processes that ask for a file of its weights at the same time; returns both outcomes."""

    def load(name: str, weights: str) -> list[SimpleNamespace]:
        for each in (client, second_client):
            each.fetch("acme/nothing", "config.json")  # both are up
        hub.fail(weights, "slow")  # and meet
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(lambda each: each.load(name), (client, second_client)))

    return load


@pytest.fixture
def offline_client(hub, _start, tmp_path):
    """A client with the caches of `client` and HF_HUB_OFFLINE=1; whatever it asks of the Hub is recorded in `hub`."""
    return _start("offline", hub.url, HF_HUB_OFFLINE="1").use(tmp_path)


@pytest.fixture
def lost_client(_start, tmp_path):
    """A client with the caches of `client` whose Hub does not exist: nothing listens on port 9 (discard) of loopback."""
    return _start("lost", "http://127.0.0.1:9").use(tmp_path)


def _load(name: str, *, run: bool = False, **options: Any) -> dict[str, Any]:
    import i2p_zoo

    model = i2p_zoo.from_pretrained(name, **options)
    return {**_describe(model), "output": output(model) if run else None}


def _push(folder: str, repo: str, **options: Any) -> dict[str, Any]:
    import i2p_zoo

    plan = i2p_zoo.push_folder(folder, repo, **options)
    return {**dataclasses.asdict(plan), "files": {file.name: file.action for file in plan.files}, "summary": plan.summary()}


def _push_adapter(base: str, repo: str, **options: Any) -> dict[str, Any]:
    import i2p_zoo

    model = i2p_zoo.from_pretrained(base, num_classes=3)
    plan = model.push_to_hub(repo, adapter=True, **options)
    return {**_describe(model), "files": {file.name: file.action for file in plan.files}}


def _timm(name: str) -> dict[str, Any]:
    import timm

    timm.create_model(name, pretrained=True)
    return {}


def _convert(name: str, folder: str) -> dict[str, Any]:
    import i2p_zoo

    steps: list[str] = []
    return {**_describe(i2p_zoo.convert(name, folder, progress=steps.append)), "steps": steps}


def _fetch(repo: str, names: list[str], repo_type: str = "model", **options: Any) -> dict[str, Any]:
    from i2p_zoo.downloading import HubOptions, fetch_files

    tried: list[str] = []
    commit, paths = fetch_files(repo, names, HubOptions(**options), tried, repo_type=repo_type) or (None, [])
    return {"commit": commit, "paths": [str(path) for path in paths], "tried": tried}


def _api(method: str, options: dict[str, Any]) -> dict[str, Any]:
    import huggingface_hub

    if "operations" in options:
        options["operations"] = [getattr(huggingface_hub, name)(**arguments) for name, arguments in options["operations"]]
    result = getattr(huggingface_hub.HfApi(), method)(**options)
    return {"result": _plain(list(result) if method.startswith("list_repo_tree") else result)}


def _plain(value: Any) -> Any:
    """Data classes of the client, which may be strings besides, as dicts."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {key: _plain(item) for key, item in vars(value).items()}
    return value if value is None or isinstance(value, (bool, int, float, str, dict)) else str(value)


def _describe(model: Any) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint(model),
        "settings": model.settings.to_dict(),
        "source": model.source,
        "num_classes": getattr(model, "num_classes", None),
        "training": model.training,
    }


@contextlib.contextmanager
def _limited_files(size: int | None) -> Iterator[None]:
    """Lets no file grow beyond a size; the log, which is one, is kept from it."""
    if size is None:
        yield
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _serve() -> None:
    """Answers requests, a line of JSON each, until stdin ends; whatever is printed goes to stderr."""
    import traceback

    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.01))  # the client waits 23 s in all for a Hub that is down
    replies, sys.stdout = sys.stdout, sys.stderr
    functions = {
        "load": _load,
        "convert": _convert,
        "fetch": _fetch,
        "push": _push,
        "push_adapter": _push_adapter,
        "timm": _timm,
        "api": _api,
    }
    for line in sys.stdin:
        request = json.loads(line)
        os.chdir(request["folder"])
        os.environ.update(request["environ"])
        try:
            with _limited_files(request["file_limit"]):
                reply = {"error": None, "message": "", **functions[request["function"]](**request["arguments"])}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    _serve()

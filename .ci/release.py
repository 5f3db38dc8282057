"""Builds and checks what is released: sdist and wheel in dist/, and the wheel with each extra in a fresh environment.

python .ci/release.py                           # make release
python .ci/release.py --extras finetune data    # of these alone; "" for none
python .ci/release.py --tag v1.2.3 --repository URL    # what a tag says is what the files say; builds nothing
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("", "finetune", "lora", "data", "e57", "demo", "view", "app", "onnx", "spconv", "triton")


def find_contradictions(root: Path, tag: str, repository: str) -> list[str]:
    """Returns what in a checkout is not ready for a release by a tag from a repository."""
    texts = {name: (root / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CHANGELOG.md", "CITATION.cff")}
    (version,) = re.findall(r'^__version__ = "(.+)"$', (root / "i2p_zoo" / "_version.py").read_text(encoding="utf-8"), re.M)
    wrong = []
    if tag != f"v{version}":
        wrong.append(f"the tag is {tag}, i2p_zoo/_version.py says {version}: expected v{version}")
    if f"\nversion: {version}\n" not in texts["CITATION.cff"]:
        wrong.append(f"CITATION.cff: expected version: {version}")
    if not re.search(rf"^## {re.escape(version)}(?! \(unreleased\))", texts["CHANGELOG.md"], re.M):
        wrong.append(f"CHANGELOG.md: expected a section '## {version}' that is not called unreleased")
    if f'"{repository}"' not in texts["pyproject.toml"]:
        wrong.append(f'pyproject.toml: expected Repository = "{repository}" under [project.urls], for the package\'s page')
    return wrong


def build(dist: Path) -> Path:
    """Builds and checks sdist and wheel, in place of what was in the folder; returns the wheel."""
    shutil.rmtree(dist, ignore_errors=True)
    run("-m", "build", "--outdir", dist, ROOT)
    files = sorted(dist.iterdir())
    (wheel,) = (path for path in files if path.suffix == ".whl")
    run("-m", "twine", "check", "--strict", *files)
    run("-m", "check_wheel_contents", wheel)
    return wheel


def try_extra(wheel: Path, extra: str) -> None:
    """Installs the wheel with an extra into a fresh environment and runs the smoke test there, outside the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        run("-m", "uv", "venv", "--quiet", "--python", sys.executable, folder)
        run("-m", "uv", "pip", "install", "--quiet", "--python", python, f"i2p-zoo[{extra}] @ {wheel.as_uri()}")
        shutil.copy(ROOT / ".ci" / "smoke.py", folder)
        subprocess.run([python, "smoke.py", *filter(None, [extra])], cwd=folder, check=True)


def run(*arguments: object) -> None:
    """Runs Python with arguments; raises CalledProcessError."""
    subprocess.run([sys.executable, *map(str, arguments)], check=True)


def main() -> None:
    """Runs what the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="*", default=EXTRAS)
    parser.add_argument("--tag")
    parser.add_argument("--repository")
    options = parser.parse_args()
    if options.tag:
        sys.exit("\n".join(find_contradictions(ROOT, options.tag, options.repository)) or None)
    wheel = build(ROOT / "dist")
    for extra in options.extras:
        try_extra(wheel, extra)


if __name__ == "__main__":
    main()

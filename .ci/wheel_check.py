"""Run against the installed wheel from outside the checkout: what it ships, and that it works."""

import subprocess
import sys
import time
from pathlib import Path

import i2p_zoo

site = Path(i2p_zoo.__file__).parents[1]
if Path.cwd() not in site.parents:
    sys.exit(f"i2p_zoo was imported from {site}, not from the wheel")
packages = sorted(p.name for p in site.iterdir() if p.is_dir() and not p.name.endswith(".dist-info") and p.name != "bin")
if packages != ["i2p_zoo"]:
    sys.exit(f"the wheel ships {packages}, expected i2p_zoo alone")
shipped = {p.suffix for p in (site / "i2p_zoo").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
if shipped - {".py", ".pyi", ".json", ".md", ".typed", ""}:
    sys.exit(f"the wheel ships files of kinds {sorted(shipped)}")
if any(
    "conversion" in line for p in (site / "i2p_zoo").glob("*.py") for line in p.read_text().splitlines() if "import" in line
):
    sys.exit("i2p_zoo imports conversion")
start = time.perf_counter()
lazy = "import sys, i2p_zoo; sys.exit('torch' in sys.modules)"
if subprocess.run([sys.executable, "-c", lazy], check=False).returncode:
    sys.exit("import i2p_zoo imports torch")
print(f"import i2p_zoo in a new process: {time.perf_counter() - start:.2f} s")
model = i2p_zoo.create_model("test_resnet", num_classes=4, stem="point").eval()
cloud = [[0.0, 0.0, 0.0], [0.1, 0.0, 0.1], [0.2, 0.3, 0.1]]
if tuple(model([cloud]).shape) != (1, 4):
    sys.exit("the wheel's network gives a wrong shape")
names = subprocess.run([sys.executable, "-m", "i2p_zoo", "list", "--json"], check=True, capture_output=True, text=True).stdout
if "i2p-resnet18" not in names:
    sys.exit(f"i2p-zoo list printed {names[:200]}")
print("wheel: 1 passed, 0 failed")

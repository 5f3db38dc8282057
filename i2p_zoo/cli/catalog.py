"""Commands about the zoo: list | info | convert | certify | push | demo."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import click

from i2p_zoo.cli import shared_options as shared
from i2p_zoo.cli.checkpoint_folders import check_place
from i2p_zoo.cli.error_lines import BatchErrors
from i2p_zoo.wording import describe_value, format_json


@click.command("list")
@click.argument("pattern", default="*")
@shared.json_option
def list_command(pattern: str, as_json: bool) -> None:
    """List the zoo's networks whose name matches PATTERN.

    Example: i2p-zoo list "resnet*"
    """
    from i2p_zoo.zoo.ledger import list_models

    names = list_models(pattern)
    if as_json:
        shared.print_json(names)
    elif names:
        click.echo("\n".join(names))
    else:
        click.echo(f"Nothing matches {pattern!r}; `i2p-zoo list` names every network.", err=True)


@click.command()
@click.argument("name")
@shared.json_option
def info(name: str, as_json: bool) -> None:
    """Describe a network by NAME (a zoo or timm name) or a checkpoint's FOLDER.

    Example: i2p-zoo info resnet50
    """
    from i2p_zoo.checkpoints.certificate_text import describe_certificate
    from i2p_zoo.zoo.facts import read_facts

    check_place(name)
    facts = read_facts(name)
    if facts is None:
        from i2p_zoo.zoo.pretrained import describe  # which loads torch and timm

        facts = describe(name)
    if as_json:
        shared.print_json(facts, indent=2)
    else:
        inflation = facts.get("settings", {}).get("inflation", "center")
        facts["certificate"] = describe_certificate(facts["certificate"], inflation)
        width = max(map(len, facts))
        click.echo("\n".join(f"{key:<{width}}  {describe_value(value)}" for key, value in facts.items()))


@click.command()
@click.argument("name")
@click.option("--out", type=shared.FOLDER, help="Folder to write; by default the zoo name.")
@click.option(
    "--weights", type=shared.INPUT, help="Your own .safetensors or .pth of that timm network; by default timm's weights."
)
@click.option("--report", type=shared.FILE, help="Write the map of parameters as JSON.")
@click.option("--table", is_flag=True, help="Print the map of parameters, a line for each tensor.")
@shared.inflation_option
@shared.axis_option
@shared.depth_option
@shared.json_option
def convert(
    name: str,
    out: Path | None,
    weights: Path | None,
    report: Path | None,
    table: bool,
    inflation: str,
    axis: str,
    depth: int | None,
    as_json: bool,
) -> None:
    """Convert image weights of the timm network NAME into a certified 3D checkpoint folder.

    Example: i2p-zoo convert tf_efficientnet_lite0 --out lite0 --report report.json
    """
    from tqdm import tqdm

    from i2p_zoo.checkpoints.certificate_text import describe_certificate
    from i2p_zoo.checkpoints.loading import describe_weights
    from i2p_zoo.names import PREFIX
    from i2p_zoo.staging import replacing
    from i2p_zoo.zoo.conversion import convert as convert_to_folder

    folder = out or Path(PREFIX + name.removeprefix(PREFIX))
    shared.check_output("--out", folder, is_folder=True)
    steps_done = itertools.count()
    with tqdm(total=4, desc="starting", unit="step", file=sys.stderr) as bar:

        def progress(step: str) -> None:
            bar.n = next(steps_done)
            bar.set_description(step)

        model = convert_to_folder(name, folder, weights=weights, inflation=inflation, axis=axis, depth=depth, progress=progress)
        bar.update()
        bar.set_description("done")
    origins, inflated = {"source": model.source, "result": describe_weights(folder)}, model.report.to_dict()
    if report is not None:
        with replacing(report) as temporary:
            temporary.write_text(format_json({**origins, **inflated}, indent=1) + "\n", encoding="utf-8", newline="\n")
    if as_json:
        shown = inflated if table else {key: value for key, value in inflated.items() if key != "parameters"}
        shared.print_json({"folder": str(folder), **origins, "report": shown})
        return
    if table:
        click.echo(model.report.table())
    click.echo(model.report.summary())
    if names := model.source.get("names"):
        click.echo(f"names of the file: {names}")
    if passed_over := model.source.get("passed_over"):
        click.echo(f"tensors passed over: {passed_over}")
    click.echo(f"certificate: relative error {describe_certificate(model.source['certificate'], inflation)}")
    for file in origins["result"]:
        click.echo(f"{file['file']}: {file['bytes']:,d} bytes, sha256 {file['sha256']}")
    click.echo(f"saved in {folder}")


@click.command()
@click.argument("names", nargs=-1, required=True)
@shared.axis_option
@shared.depth_option
@shared.json_option
def certify(names: tuple[str, ...], axis: str, depth: int | None, as_json: bool) -> None:
    """Measure how exactly the center-inflated timm architectures NAMES compute their 2D functions.

    Weights and BatchNorm statistics are random, so that every branch is alive: the certificate is about structure, whatever
    the weights. It says which tensors were checked bit for bit, and which ones the outputs depend on.

    Example: i2p-zoo certify resnet18 densenet121
    """
    from tqdm import tqdm

    from i2p_zoo.zoo.certificate import certify_architecture

    certificates, errors = {}, BatchErrors(names, "architecture")
    for name in tqdm(names, desc="certifying", file=sys.stderr, disable=len(names) == 1):
        with errors.held(name):
            certificates[name] = certificate = certify_architecture(name, axis=axis, depth=depth)
            if not as_json:
                tqdm.write(f"{name}: {certificate}")
    if as_json:
        shared.print_json({name: certificate.to_dict() for name, certificate in certificates.items()})
    errors.tell()
    if not all(certificate.passed for certificate in certificates.values()):
        sys.exit(1)


@click.command()
@click.argument("folder", type=shared.INPUT)
@click.argument("repo")
@click.option("--yes", is_flag=True, help="Push. Without it nothing is changed: you see what would be.")
@click.option("--private", is_flag=True, default=None, help="Of a new repository.")
@click.option("--revision", help="A branch; by default main.")
@click.option("--message", help="Of the commit.")
@shared.json_option
def push(
    folder: Path, repo: str, yes: bool, private: bool | None, revision: str | None, message: str | None, as_json: bool
) -> None:
    """Put the checkpoint or adapter in FOLDER on the Hub as REPO ("organisation/name").

    Example: i2p-zoo push lite0 me/i2p-tf_efficientnet_lite0 --yes
    """
    from dataclasses import asdict

    from i2p_zoo.checkpoints.publishing import push_folder

    check_place(folder)
    plan = push_folder(folder, repo, private=private, revision=revision, message=message, dry_run=not yes)
    if as_json:
        shared.print_json({**asdict(plan), "pushed": yes and plan.changes})
        return
    click.echo(plan.summary())
    if not plan.changes:
        click.echo("Nothing to do: the repository has these files.")
    elif yes:
        click.echo(f"pushed; load it with i2p_zoo.from_pretrained({repo!r})")
    else:
        click.echo(f"\n{plan.card}\nNothing was changed. Push with --yes.")


@click.command()
@shared.default_option("--data", "data_file", type=shared.INPUT, default="tests/data/kicad-mini.npz", help="Labelled clouds.")
@shared.default_option("--out", type=shared.FOLDER, default="out/demo")
@shared.default_option("--steps", type=shared.COUNT, default=60, help="Training steps a run.")
@shared.default_option("--seeds", type=shared.COUNT, default=1, help="Runs of each kind.")
@shared.device_option
def demo(data_file: Path, out: Path, steps: int, seeds: int, device: str) -> None:
    """Convert a real network, prove it on photographs, finetune it on real shapes, and draw pictures.

    Example: i2p-zoo demo --out demo --seeds 3
    """
    from i2p_zoo.experiments.demonstration import run_demo

    run_demo(data_file, out, steps, seeds, say=click.echo, device=device)

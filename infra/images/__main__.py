"""`python -m infra.images`: build an image with whatever builder is here, the same bytes from the same commit."""

from __future__ import annotations

import click

from core.errors import SeatrialError
from infra.images.build import DOCKERFILES, VALUES, Build, bootstrap_base, build


@click.command()
@click.argument("image", type=click.Choice(sorted(DOCKERFILES)))
@click.option("--base", default="", help="Base image by digest; for `worker` the engine's image; for `engine` vLLM's CUDA image.")
@click.option("--debootstrap", is_flag=True, help="Make the base from Debian's packages instead: no registry is asked.")
@click.option("--tag", default="", help="Name of the result on this machine; without it localhost/seatrial-IMAGE.")
@click.option("--to", default="", help="Push it there afterwards: docker://REG/NAME:TAG, or docker-archive:FILE.tar.")
@click.option("--no-cache", "fresh", is_flag=True, help="Use nothing of an earlier build.")
def main(image: str, base: str, tag: str, to: str, *, debootstrap: bool, fresh: bool) -> None:
    """Build IMAGE from this checkout. After a push to a registry its last lines are those of the chart's values."""
    try:
        base = bootstrap_base(image) if debootstrap else base
        built = build(Build(image, base, tag or f"localhost/seatrial-{image}", push=to, fresh=fresh))
    except SeatrialError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{built.tag}: {built.bytes / 1e6:.0f} MB, id {built.id}, {built.seconds:.0f} s", err=True)
    if built.reference:
        group, _, name = VALUES[image].partition(".")
        click.echo(f"{group}:\n  {name}: {built.reference}")


if __name__ == "__main__":
    main()

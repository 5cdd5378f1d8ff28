"""`python -m infra.images`: build an image with whatever builder is here, the same bytes from the same commit."""

from __future__ import annotations

import click

from core.errors import SeatrialError
from infra.images.build import DOCKERFILES, Build, bootstrap_base, build


@click.command()
@click.argument("image", type=click.Choice(sorted(DOCKERFILES)))
@click.option("--base", default="", help="Base image by digest; for `worker` the engine's image; for `engine` vLLM's CUDA image.")
@click.option("--debootstrap", is_flag=True, help="Make the base from Debian's packages instead: no registry is asked.")
@click.option("--tag", required=True, help="Name of the result.")
@click.option("--to", default="", help="Push it there afterwards: docker://..., or docker-archive:FILE.tar.")
def main(image: str, base: str, tag: str, to: str, *, debootstrap: bool) -> None:
    """Build IMAGE from this checkout."""
    try:
        built = build(Build(image, bootstrap_base(image) if debootstrap else base, tag, push=to))
    except SeatrialError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{built.tag}: {built.bytes / 1e6:.0f} MB, {built.digest}, {built.seconds:.0f} s")


if __name__ == "__main__":
    main()

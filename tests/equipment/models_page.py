"""The tables of docs/models.md, made from the cells that the tests run. Write them again: `python -m tests.equipment.models_page`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tests.equipment.architectures import CELLS, FOUR_BITS, Cell

PAGE: Final = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN: Final = "<!-- tables: python -m tests.equipment.models_page -->"
END: Final = "<!-- end of tables -->"
_LAYOUTS: Final = {
    "awq": "AWQ, 4 bits",
    "gptq": "GPTQ, 4 bits",
    "w4a16": "compressed-tensors W4A16",
    "w8a8": "compressed-tensors W8A8 (int8)",
    "fp8": "compressed-tensors FP8 (dynamic)",
    "bitsandbytes": "bitsandbytes",
}
_WITHOUT_AVX512: Final = "works on CPUs with AVX-512; others: `quantization_not_on_cpu`"


def tables() -> str:
    """Return the page's tables as Markdown."""
    plain = [cell for cell in CELLS if not cell.layout and not cell.about]
    parts = (
        _table("Served", ("architecture", "tried as"), _served(plain)),
        _table("Refused", ("architecture", "tried as", "reason"), _refused(plain)),
        _table("Quantised layouts on CPU engines", ("layout", "architecture", "result"), _layouts()),
        _table("Uploads as they occur", ("upload", "architecture", "result"), _uploads()),
    )
    return "\n".join(parts)


def page_with_tables(page: str) -> str:
    """Return the page with its tables made again."""
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n{tables()}{END}{rest.split(END)[1]}"


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"## {title}", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _served(cells: list[Cell]) -> Iterator[tuple[str, str]]:
    served = [cell for cell in cells if not cell.refused]
    for name in sorted({cell.architecture for cell in served}, key=str.lower):
        of_name = [cell for cell in served if cell.architecture == name]
        yield f"`{name}`", "; ".join(dict.fromkeys(_variant(cell) for cell in of_name))


def _refused(cells: list[Cell]) -> Iterator[tuple[str, str, str]]:
    return ((f"`{cell.architecture}`", _variant(cell), f"`{cell.refused}`") for cell in cells if cell.refused)


def _layouts() -> Iterator[tuple[str, str, str]]:
    rows = ((_LAYOUTS[cell.layout], f"`{cell.architecture}`, {_variant(cell)}", _result(cell)) for cell in CELLS if cell.layout)
    return iter(dict.fromkeys(rows))


def _uploads() -> Iterator[tuple[str, str, str]]:
    return ((cell.about, f"`{cell.architecture}`", _result(cell)) for cell in CELLS if cell.about)


def _result(cell: Cell) -> str:
    if cell.refused:
        return f"refused: `{cell.refused}`"
    if cell.refused_by_engine:
        return "refused at the engine's start, with the parameter's name"
    return _WITHOUT_AVX512 if cell.layout in FOUR_BITS else "works"


def _variant(cell: Cell) -> str:
    words = [cell.dtype, "tied" if cell.tied else "untied"]
    if cell.shards > 1:
        words.append(f"{cell.shards} shards")
    if cell.skip:
        words.append("some layers not quantised")
    return " ".join(words)


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

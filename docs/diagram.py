"""Draws the packages and what they import, from the code, into docs/architecture.md.

python docs/diagram.py [--check]
"""

import sys
from pathlib import Path

import grimp

PAGE = Path(__file__).parent / "architecture.md"
BEGIN, END = "<!-- diagram -->", "<!-- end of diagram -->"
ROOT = "audience"


def drawing() -> str:
    """A flowchart: a box for each package, an arrow where one imports another."""
    graph = grimp.build_graph(ROOT)
    modules = graph.modules - {ROOT, f"{ROOT}.__main__"}
    pairs = {
        (package_of(module), package_of(imported))
        for module in modules
        for imported in graph.find_modules_directly_imported_by(module) - {ROOT}
    }
    lines = [f"    {a} --> {b}" for a, b in sorted(pairs) if a != b]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def package_of(module: str) -> str:
    return module.split(".")[1]


def page_with(drawn: str, page: str) -> str:
    return page[: page.index(BEGIN)] + f"{BEGIN}\n\n{drawn}\n\n{END}" + page[page.index(END) + len(END) :]


def main() -> None:
    """With --check nothing is written; status 1 when the page is not as the code is."""
    present = PAGE.read_text(encoding="utf-8")
    drawn = page_with(drawing(), present)
    if "--check" in sys.argv:
        sys.exit("docs/architecture.md is not as the code is: run `make diagram`" if drawn != present else 0)
    PAGE.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()

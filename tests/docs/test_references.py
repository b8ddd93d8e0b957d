"""docs/references.bib names all literature that the package names, by the same author and year."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARXIV = r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+/\d{7})"


def entries() -> dict[str, dict[str, str]]:
    """Return the fields of each entry by key."""
    text = (ROOT / "docs" / "references.bib").read_text(encoding="utf-8")
    found = re.findall(r"^@\w+\{([\w-]+),\n(.*?)^\}$", text, re.MULTILINE | re.DOTALL)
    assert len(found) == text.count("\n@"), "an entry that this test cannot read"
    fields = r"^  (\w+) = \{(.*?)\},\n(?=  \w+ = |\Z)"
    return {key: dict(re.findall(fields, body, re.MULTILINE | re.DOTALL)) for key, body in found}


ENTRIES = entries()
BY_ARXIV = {fields["eprint"]: fields for fields in ENTRIES.values() if "eprint" in fields}


def mentions() -> list[tuple[str, str, str]]:
    """Return (file, arXiv number, the 160 characters before it) of each mention in the package and the derivation."""
    found = []
    for path in [*sorted((ROOT / "purejaxppo").rglob("*.py")), ROOT / "docs" / "derivation.md"]:
        text = re.sub(r"\s+(?:# )?", " ", path.read_text(encoding="utf-8"))
        for match in re.finditer(ARXIV, text):
            before = text[max(match.start() - 160, 0) : match.start()]
            found.append((path.relative_to(ROOT).as_posix(), match[1], before))
    return found


def test_entries_are_complete_and_unique():
    assert len(ENTRIES) > 40
    for key, fields in ENTRIES.items():
        assert {"author", "title"} <= fields.keys(), key
        assert "note" in fields or re.fullmatch(r"\d{4}", fields["year"]), key
        assert ("eprint" in fields) == ("archiveprefix" in fields), key
    titles = [fields["title"].lower() for fields in ENTRIES.values()]
    assert len(set(titles)) == len(titles)
    assert len(BY_ARXIV) == sum("eprint" in fields for fields in ENTRIES.values())


@pytest.mark.parametrize(("file", "number", "before"), mentions())
def test_an_arxiv_number_is_listed_with_the_author_and_year_that_stand_before_it(file, number, before):
    fields = BY_ARXIV[number]
    surname = fields["author"].split(",")[0]
    assert surname in before, f"{file}: {number} is by {surname}"
    assert fields["year"] in before, f"{file}: {number} is of {fields['year']}"


def formulas() -> list[tuple[str, str]]:
    """Return name and docstring of each public function of the mathematics that quotes an equation by its number."""
    found = []
    for path in sorted((ROOT / "purejaxppo" / "functional").glob("*.py")):
        if path.name == "bindings.py":  # no formulas, only names for them
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                text = ast.get_docstring(node) or ""
                if re.search(r"\((?:[1-9]|1[0-3])\b(?:, C\d)?\)", text.splitlines()[0]):
                    found.append((f"{path.stem}.{node.name}", text))
    return found


def test_each_formula_names_author_and_year():
    assert len(formulas()) >= 14
    assert [name for name, text in formulas() if not re.search(r"[A-Z]\w+(?: et al\.| & \w+)? \(\d{4}\)", text)] == []

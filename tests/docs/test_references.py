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
def test_an_arxiv_number_is_listed_with_the_author_and_year_that_precede_it(file, number, before):
    fields = BY_ARXIV[number]
    surname = fields["author"].split(",")[0]
    assert surname in before, f"{file}: {number} is by {surname}"
    assert fields["year"] in before, f"{file}: {number} is of {fields['year']}"


# Rooms of the mathematics, and names in them that are no formula: containers, empty states, sums, wrappers.
MATHEMATICS = ("functional/*.py", "networks/recurrent.py", "networks/initializers.py", "distributions.py")
NO_FORMULA = {
    *("zero_where", "clip_range", "init_control", "apply_control", "init_moments", "init_reward_scaler"),
    *("init_episode_stats", "summarize_episodes", "mean_info", "explained_variance"),
    *("draw_orthonormal", "draw_zeros", "orthogonal_gates", "batched_init"),
    *(
        "Control",
        "Diagnostics",
        "EpisodeStats",
        "EpisodeSummary",
        "LowParts",
        "RunningMoments",
        "RewardScaler",
        "TrpoInfo",
    ),
    *("MultiCategorical", "Joint"),
}
CITATION = r"([A-Z][a-z]\w+)(?: et al\.|(?:, \w+)? (?:&|and) \w+)?,? \(?(\d{4})\b"


def formulas() -> list[tuple[str, str]]:
    """Return name and docstring of each public function and class of the mathematics."""
    found = []
    for path in sorted(path for pattern in MATHEMATICS for path in (ROOT / "purejaxppo").glob(pattern)):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found.append((f"{path.stem}.{node.name}", " ".join((ast.get_docstring(node) or "").split())))
    return found


def test_names_without_a_formula_exist():
    assert {name.split(".")[1] for name, _ in formulas()} >= NO_FORMULA


@pytest.mark.parametrize(("name", "text"), [x for x in formulas() if x[0].split(".")[1] not in NO_FORMULA])
def test_each_formula_cites_author_and_year_of_an_entry(name, text):
    cited = re.findall(CITATION, text)
    assert cited, f"{name} cites nothing"
    known = {(fields["author"].split(",")[0], fields.get("year")) for fields in ENTRIES.values()}
    assert set(cited) <= known

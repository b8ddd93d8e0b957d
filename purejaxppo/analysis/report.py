"""Write the report of a study: an HTML page that contains its figures, tables in Markdown and LaTeX, figures as PNG."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from purejaxppo._util.files import write_atomic
from purejaxppo.analysis import study_figures as figures
from purejaxppo.analysis.figures import save_figure
from purejaxppo.analysis.statistics import interquartile_mean, optimism
from purejaxppo.analysis.study import (
    Ranked,
    Study,
    by_parameter,
    generalization_table,
    notes,
    number,
    rank,
    table_rows,
    tasks,
    varied,
)

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0;font-size:13px}td,th{border-bottom:1px solid #ccc;padding:.25em .7em;"
    "text-align:left}th{border-bottom:2px solid #555}img{max-width:100%}.note{background:#fff3cd;padding:.4em .8em}"
)


class _Section(NamedTuple):
    """The texts and figure files of one task."""

    markdown: str
    html: str
    latex: str
    files: list[Path]


def write_report(study: Study, folder: Path) -> list[Path]:
    """Write index.html, report.md, table.tex and the figures, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [_section(study, task, folder, i) for i, task in enumerate(tasks(study))]
    markdown = "\n\n".join(
        [
            f"# {study.title}",
            *(f"> Note: {note}." for note in notes(study)),
            *(s.markdown for s in sections),
            _facts_markdown(study),
        ]
    )
    page = "\n".join([_head(study), *(s.html for s in sections), _facts_html(study), "</body></html>"])
    latex = "\n\n".join(s.latex for s in sections)
    texts = {"index.html": page, "report.md": markdown + "\n", "table.tex": latex + "\n"}
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return [folder / name for name in texts] + [file for s in sections for file in s.files]


def _section(study: Study, task: str, folder: Path, index: int) -> _Section:
    """Return the texts and the figure files of one task."""
    ranked = rank(study, task)
    if not ranked:
        text = f"{task}: no setting reached the end of its runs"
        return _Section(text, f"<p>{html.escape(text)}</p>", f"% {text}", [])
    rows = table_rows(ranked)
    drawn = _draw(study, task, ranked, folder, index)
    general = {
        f"Score at values of {parameter}:": generalization_table(lines)
        for parameter, lines in by_parameter(study, task).items()
    }
    tested = _test_lines(study, task, ranked)
    lines = [*tested, *_score_lines(ranked)]
    markdown = "\n\n".join(
        [
            f"## {task}",
            _markdown_table(rows),
            *(text for caption, table in general.items() for text in (caption, _markdown_table(table))),
            *tested,
            "All scores, by seed:",
            "\n".join(f"- {line}" for line in _score_lines(ranked)),
            *(f"![{file.stem}]({file.name})" for file in drawn),
        ]
    )
    images = "\n".join(
        f'<img alt="{file.stem}" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'
        for file in drawn
    )
    listed = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    tables = _html_table(rows)
    tables += "".join(f"<p>{html.escape(caption)}</p>{_html_table(table)}" for caption, table in general.items())
    page = f"<h2>{html.escape(task)}</h2>{tables}{images}<ul>{listed}</ul>"
    return _Section(markdown, page, _latex_table(task, rows, study), drawn)


def _draw(study: Study, task: str, ranked: Sequence[Ranked], folder: Path, index: int) -> list[Path]:
    made = {
        "curves": figures.curves_figure(task, ranked),
        "profiles": figures.profiles_figure(task, ranked, study.score),
        "scores": figures.scores_figure(task, ranked, study.score),
    }
    names = [name for name in varied([r.arm for r in ranked]) if all(name in r.arm.hyperparams for r in ranked)]
    if names:
        made["sensitivity"] = figures.sensitivity_figure(task, ranked, names, study.score)
    for parameter, lines in by_parameter(study, task).items():
        made[f"generalization-{parameter}"] = figures.generalization_figure(task, lines, study.score)
    files = []
    for name, figure in made.items():
        files.append(folder / f"{index:02d}-{name}.png")
        save_figure(figure, files[-1])
    return files


def _test_lines(study: Study, task: str, ranked: Sequence[Ranked]) -> list[str]:
    """Return what the test on fresh seeds says about the winner."""
    lines = []
    for r in rank(study, task, is_test=True):
        same = [x for x in ranked if x.arm.label == r.arm.label]
        text = (
            f"Test: {r.arm.label} trained again with {len(r.arm.seeds)} fresh seeds: IQM {number(r.interval.value)} "
            f"[{number(r.interval.low)}, {number(r.interval.high)}], worst {number(r.spread.worst)}"
        )
        if same:
            selected = interquartile_mean(same[0].scores)
            gap = optimism(same[0].scores, r.scores)
            text += f"; on the seeds of the selection {number(selected)}, optimism {number(gap)}"
        lines.append(text + ".")
    return lines


def _score_lines(ranked: Sequence[Ranked]) -> list[str]:
    """Return the scores of all seeds of each arm as text."""
    return [
        f"{r.arm.label}: "
        + ", ".join(
            f"{seed}: {status if status == 'failed' else number(score)}"
            for seed, score, status in zip(r.arm.seeds, r.arm.scores, r.arm.status, strict=True)
        )
        for r in ranked
    ]


# ---- tables


def _markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([row[key] for key in header] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _html_table(rows: Sequence[Mapping[str, str]]) -> str:
    head = "".join(f"<th>{html.escape(key)}</th>" for key in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(x)}</td>" for x in row.values()) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _latex_table(task: str, rows: Sequence[Mapping[str, str]], study: Study) -> str:
    header = list(rows[0])
    lines = [" & ".join(_tex(row[key]) for key in header) + r" \\" for row in rows]
    caption = "; ".join([f"{task}: {study.score}", *notes(study)])
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_tex(caption)}}}",
            rf"\begin{{tabular}}{{{'l' * len(header)}}}",
            r"\hline",
            " & ".join(_tex(key) for key in header) + r" \\",
            r"\hline",
            *lines,
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _tex(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text.replace(">", "$>$").replace("<", "$<$").replace("…", r"\dots{}")


def _facts_markdown(study: Study) -> str:
    return "\n".join(["## How it was made", "", *(f"- {name}: {text}" for name, text in study.facts.items())])


def _facts_html(study: Study) -> str:
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in study.facts.items())
    return f"<h2>How it was made</h2><table>{rows}</table>"


def _head(study: Study) -> str:
    title = html.escape(study.title)
    listed = "".join(f'<p class="note">Note: {html.escape(note)}.</p>' for note in notes(study))
    meta = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{meta}</head><body><h1>{title}</h1>{listed}'

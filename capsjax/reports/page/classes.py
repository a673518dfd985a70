"""What was taken for what: the confusion matrix and the numbers of each class."""

from collections.abc import Sequence

import numpy as np

from capsjax.metrics import measures_of_classes
from capsjax.plots import figures
from capsjax.reports.page.html import Markup, Section, element, image, join, paragraph, table
from capsjax.reports.page.pictures import drawn

# A matrix of more classes is a figure, and the commonest confusions stand beside it.
MOST_CLASSES, MOST_CONFUSIONS = 25, 12
HEATS = 5


def confusion(matrix: np.ndarray, class_names: Sequence[str], unit: str = "images") -> Section:
    """Show how often each class (row) was taken for each other (column).

    Args:
      matrix: counts, (k, k).
      class_names: name of each class; empty for numbers.
      unit: what is counted.
    """
    names = names_of(len(matrix), class_names)
    if len(matrix) <= MOST_CLASSES:
        shown = element("div", _matrix(matrix, names), class_="wide", tabindex=0)
    else:
        figure = figures.confusion_matrix(matrix, "", class_names)
        shown = image(drawn(figure), "the confusion matrix as a figure", class_="drawn")
    parts = [
        paragraph(f"Rows are labels and columns predictions, in numbers of {unit}."),
        shown,
        _commonest(matrix, names, unit),
    ]
    return Section("confusion", "Confusion matrix", join(parts))


def per_class(matrix: np.ndarray, class_names: Sequence[str], unit: str = "images") -> Section:
    """Tabulate recall, precision and F1 of each class, and what it is taken for."""
    measures = measures_of_classes(matrix)
    rows = []
    for k, name in enumerate(names_of(len(matrix), class_names)):
        errors = matrix[k] * (np.arange(len(matrix)) != k)
        taken_for = names_of(len(matrix), class_names)[errors.argmax()] if errors.any() else "-"
        shares = [_percent(measures[each][k]) for each in ("recall", "precision", "f1")]
        rows.append((name, f"{matrix[k].sum():,}", f"{matrix[k, k]:,}", *shares, taken_for))
    header = ("class", unit, "right", "recall, %", "precision, %", "F1, %", "mostly taken for")
    note = (
        "Recall: the share of a class that is recognised. Precision: the share of what is taken "
        "for a class that belongs to it. F1: their harmonic mean. A dash: nothing to divide by."
    )
    parts = [table(header, rows), paragraph(note, class_="note")]
    return Section("classes", "Each class", join(parts))


def names_of(count: int, class_names: Sequence[str]) -> Sequence[str]:
    """Return the names of classes; their numbers where they have none."""
    return class_names or [str(k) for k in range(count)]


def _matrix(matrix: np.ndarray, names: Sequence[str]) -> Markup:
    errors = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    heads = [element("th", each, scope="col") for each in names]
    rows = [element("tr", element("td"), *heads)]
    for k, name in enumerate(names):
        head = element("th", name, scope="row")
        if not matrix[k].any():
            nothing = element("td", "no images of this class", colspan=len(names), class_="none")
            rows.append(element("tr", head, nothing))
            continue
        cells = [_cell(matrix, errors, k, j, names) for j in range(len(names))]
        rows.append(element("tr", head, *cells))
    return element("table", element("tbody", *rows), class_="confusion")


def _cell(matrix: np.ndarray, errors: np.ndarray, k: int, j: int, names: Sequence[str]) -> Markup:
    count = int(matrix[k, j])
    if not count:
        return element("td")
    if k == j:
        return element("td", f"{count:,}", class_="right", title=f"{names[k]}: {count:,} right")
    heat = int(np.ceil(HEATS * errors[k, j] / errors.max()))
    title = f"{names[k]} taken for {names[j]}: {count:,}"
    return element("td", f"{count:,}", class_=f"heat-{heat}", title=title)


def _commonest(matrix: np.ndarray, names: Sequence[str], unit: str) -> Markup:
    errors = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-errors, axis=None, kind="stable")[:MOST_CONFUSIONS]
    places = [np.unravel_index(each, errors.shape) for each in order]
    rows = [
        (names[k], names[j], f"{errors[k, j]:,}", _percent(errors[k, j] / matrix[k].sum()))
        for k, j in places
        if errors[k, j]
    ]
    if not rows:
        return paragraph("There are no confusions.")
    header = ("label", "taken for", unit, "of the class, %")
    return join([element("h3", "The commonest confusions"), table(header, rows)])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"

"""The page that the option ``report`` asks for: of what was done, would be done, or was refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from converter.endpoints.destination import Destination
from converter.endpoints.endpoint import Endpoint
from converter.endpoints.replacing import refuse_part, refuse_read
from converter.errors import ConversionError, MatchError, OutputError, Remedy
from converter.formats.atomic import check_folder, write_text
from converter.formats.locations import is_url, location
from converter.options import WriteOptions


class HasPage(Protocol):
    def html(self) -> str: ...


_Report = TypeVar("_Report", bound=HasPage)


@contextmanager
def paged(options: WriteOptions, end: Destination, read: Sequence[Path]) -> Iterator[Callable[[_Report], _Report]]:
    """Takes the report of the block, writes its page and hands it back. Where the block is refused with questions, the
    page is of these, for then a picture is needed most.

    read: the files that the conversion reads. Raises OutputError before the block if the page would replace something
    else than a former page, or, without ``force``, anything.
    """
    if options.report is None:
        yield lambda report: report
        return
    path = _place(options.report, options.force, end, read)

    def keep(report: _Report) -> _Report:
        write_text(path, report.html())
        return report

    try:
        yield keep
    except MatchError as error:
        from converter.reports.page.write import page_of_refusal  # a conversion without a page does not need it

        write_text(path, page_of_refusal(error))
        raise


def files_of(*ends: Endpoint | None) -> tuple[Path, ...]:
    """The files that are read, of these that are any."""
    return tuple(file for end in ends if end is not None for file in end.files)


def _place(file: str, force: bool, end: Destination, read: Sequence[Path]) -> Path:
    if is_url(location(file)):
        raise ConversionError(f"a page is a file on a disk, and {file} is a URL: choose a path.")
    path = Path(file)
    refuse_read(path, read)
    if not is_url(end.path):
        refuse_part(path, end)
    check_folder(path)
    if os.path.lexists(path):
        from converter.reports.page.write import is_page

        if not is_page(path):
            raise OutputError(f"{path}: exists, and is no page of the converter; choose another path.")
        if not force:
            raise OutputError(f"{path}: exists already; choose another path.", Remedy("force", effect="replaces it"))
    return path

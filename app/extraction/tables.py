"""Find the headers of columns and rows in tables of Markdown and HTML: they say what the images there are."""

import re

#: Characters in front of a cell in which its table must begin, and characters of one row.
_MAX_TABLE, _MAX_ROW = 8 * 1024, 2048
#: Characters of the first cell of a row that names the row. A longer one describes an image.
_MAX_NAME = 16
_DELIMITER_ROW = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-*:?[ \t]*)*")
#: Where the markup of an image or a link begins.
_MARKUP = re.compile(r"!?\[|<")


#: Parts of a table in HTML.
_CELL = re.compile(r"<t[dh]\b[^<>]{0,200}>")
_TAG = re.compile(r"<[^<>]{0,200}>?")


def words_in_table(text: str, position: int) -> str:
    """Return the header of the column in which a URL stands, the name of its row, and the words before it in its cell.

    The text is empty outside of tables, in headers, and where the table is too long.
    """
    return _words_in_markdown(text, position) or _words_in_html(text, position)


def _words_in_markdown(text: str, position: int) -> str:
    row_start = text.rfind("\n", max(0, position - _MAX_ROW), position) + 1
    row = text[row_start:position]
    if (row_start == 0 and position > _MAX_ROW) or "|" not in text[row_start : position + _MAX_ROW].partition("\n")[0]:
        return ""
    *lines, _ = text[max(0, row_start - _MAX_TABLE) : row_start].split("\n")
    rows: list[str] = []
    while lines and "|" in lines[-1]:
        rows.append(lines.pop())
    if len(rows) < 2 or not _DELIMITER_ROW.fullmatch(rows[-2]):
        return ""
    header, cells = (cells_of(each) for each in (rows[-1], row))
    name = header[len(cells) - 1] if len(cells) <= len(header) else ""
    first = cells[0] if len(cells) > 1 and len(cells[0]) <= _MAX_NAME else ""
    return f"{name}: {first} {_MARKUP.split(cells[-1])[0].strip()}"


def cells_of(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().removeprefix("|").split("|")]


def _words_in_html(text: str, position: int) -> str:
    before = text[max(0, position - _MAX_TABLE) : position].lower()
    table, row = before.rfind("<table"), before.rfind("<tr")
    if not 0 <= table < row or "</table" in before[table:]:
        return ""
    first_row = before[table : before.find("</tr", table)]
    header, cells = (_texts_of_cells(each) for each in (first_row, before[row:]))
    name = header[len(cells) - 1] if "<th" in first_row and 0 < len(cells) <= len(header) else ""
    first = cells[0] if len(cells) > 1 and len(cells[0]) <= _MAX_NAME else ""
    return f"{name}: {first}" if name or first else ""


def _texts_of_cells(row: str) -> list[str]:
    return [_TAG.sub(" ", cell).strip() for cell in _CELL.split(row)[1:]]

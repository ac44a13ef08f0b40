"""Find the headers of columns, rows and sections in tables and data: they say what the images there are.

Tables are those of Markdown, HTML and CSV; sections those of YAML and TOML.
"""

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
#: A row of names in CSV, in which no sentence fits.
_CSV_HEADER = re.compile(r"[\"']?\w[\w .-]{0,30}[\"']?(?:[,;\t][\"']?\w[\w .-]{0,30}[\"']?){1,30}")
#: A key of YAML or TOML in front of its value, one that opens a section, and the name of a table in TOML.
_KEY = re.compile(r"([ \t]*)(?:- )?[\"']?([\w-]{1,30})[\"']?[ \t]*[:=][ \t]*[\"'<]?")
_SECTION = re.compile(r"([ \t]*)(?:- )?[\"']?([\w-]{1,30})[\"']?:[ \t\r]*")
_TOML_TABLE = re.compile(r"\[{1,2}([\w.-]{1,60})\]{1,2}[ \t\r]*")
_MAX_SECTION = 30


def words_in_table(text: str, position: int) -> str:
    """Return the header of the column in which a URL stands, the name of its row, and the words before it in its cell.

    The text is empty outside of tables, in headers, and where the table is too long.
    """
    before = text[max(0, position - _MAX_TABLE) : position]
    if "\n" not in before and "<" not in before:
        return ""  # Headers stand above: most replies have one line.
    readers = (_words_in_markdown, _words_in_html, _words_in_csv, _words_in_section)
    return next(filter(None, (read(text, position) for read in readers)), "")


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


def _words_in_csv(text: str, position: int) -> str:
    before = text[max(0, position - _MAX_TABLE) : position]
    *lines, row = before.split("\n")
    row += text[position : position + _MAX_ROW].partition("\n")[0]
    separator = next((each for each in "\t;," if lines and each in lines[-1] and each in row), "")
    if not separator:
        return ""
    header = ""
    while lines and lines[-1].count(separator) == row.count(separator):
        header = lines.pop().rstrip("\r")
    column = before.rpartition("\n")[2].count(separator)
    return header.split(separator)[column].strip(" \"'") if _CSV_HEADER.fullmatch(header) else ""


def _words_in_section(text: str, position: int) -> str:
    *lines, row = text[max(0, position - _MAX_ROW) : position].split("\n")
    key = _KEY.fullmatch(row)
    for line in reversed(lines[-_MAX_SECTION:] if key else ()):
        section = _SECTION.fullmatch(line)
        if table := _TOML_TABLE.fullmatch(line):
            return f"{table[1]} {key[2]}: " if key else ""
        if key and section and len(section[1]) < len(key[1]):
            return f"{section[2]} {key[2]}: "
    return ""

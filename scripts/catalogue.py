"""Write `src/unending/catalogue.json` and the table of systems in README.md from the live classes."""

import json
import sys
from pathlib import Path
from typing import Any

from unending import catalogue

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "src" / "unending" / "catalogue.json"
BEGIN, END = "<!-- systems: begin -->", "<!-- systems: end -->"


def table(rows: list[dict[str, Any]]) -> str:
    """The systems as a Markdown table."""
    lines = ["| system | what it does | takes | gives | paper |", "|---|---|---|---|---|"]
    for row in rows:
        link = f"[{row['arxiv']}](https://arxiv.org/abs/{row['arxiv']})" if row["arxiv"] else row["paper"]
        page = f"[{row['name']}](docs/systems/{row['name']}.md)"
        lines.append(
            f"| {page} | {row['title']} | {', '.join(row['takes'])} | {', '.join(row['gives'])} | {link} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Write both files."""
    rows = catalogue.describe_all()
    STORED.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    readme.write_text(f"{head}{BEGIN}\n{table(rows)}\n{END}{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How much of a disk distributions take, with all that they require.

    python benchmarks/installed_size.py goodparts

Prints bytes: the files of the distributions named and of what their metadata requires on this machine, and so on;
extras left out. So tools that happen to lie in the same environment do not count.
"""

from __future__ import annotations

import argparse
import json
import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("distribution", nargs="+")
    print(sum(sizes(parser.parse_args().distribution).values()))


def sizes(names: list[str]) -> dict[str, int]:
    """Bytes of each distribution that these need, themselves included, by its name."""
    waiting, found = list(names), dict[str, int]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        distribution = metadata.distribution(name)
        found[name] = _size(distribution)
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def _size(distribution: metadata.Distribution) -> int:
    direct = json.loads(distribution.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):  # its files are not where the metadata lies
        package = Path(direct["url"].removeprefix("file://")) / distribution.metadata["Name"]
        return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    files = (Path(distribution.locate_file(file)) for file in distribution.files or ())
    return sum(path.stat().st_size for path in files if path.is_file())


if __name__ == "__main__":
    main()

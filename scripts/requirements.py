"""Compare an environment with pyproject.toml, using nothing but the standard library and pip.

python scripts/requirements.py list [--extra dev]    requirement lines, for pip install
python scripts/requirements.py check [--extra dev]   exit 0 when all are met, else 1 and why
python scripts/requirements.py stamp                 digest of the requirements and pins
"""

from __future__ import annotations

import hashlib
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirement_lines(extras: list[str]) -> list[str]:
    """The requirement strings of pyproject.toml, with those of the named extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return lines


def unmet(lines: list[str]) -> list[str]:
    """Those requirements that the running interpreter's environment does not meet, with why."""
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:  # pip carries its own copy, and every environment here has pip
        from pip._vendor.packaging.requirements import Requirement
    problems = []
    for line in lines:
        requirement = Requirement(line)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{line} (not installed)")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{line} (found {version})")
    return problems


def main(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else "check"
    extras = [arguments[i + 1] for i, word in enumerate(arguments) if word == "--extra"]
    if verb == "list":
        print("\n".join(requirement_lines(extras)))
        return 0
    if verb == "stamp":
        files = ("pyproject.toml", "constraints.txt")
        content = b"\0".join((ROOT / name).read_bytes() for name in files)
        print(hashlib.sha256(content).hexdigest())
        return 0
    if verb != "check":
        print(__doc__, file=sys.stderr)
        return 2
    problems = unmet(requirement_lines(extras))
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

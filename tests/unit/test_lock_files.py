"""The lock files agree with pyproject.toml, pin everything by hash and name no package index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCKS = [
    "requirements.lock",
    "requirements-dev.lock",
    "deploy/locks/build.lock",
    "deploy/locks/installer.lock",
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PROJECT["dependency-groups"]
EXTRAS = [
    requirement for extra in PROJECT["project"]["optional-dependencies"].values() for requirement in extra
]
SEALING = PROJECT["project"]["optional-dependencies"]["sealing"]
RUNTIME = PROJECT["project"]["dependencies"]


def pins(lock: str) -> dict[str, list[str]]:
    """The versions that a lock file pins (several where they depend on the Python version) by package."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (ROOT / lock).read_text(), re.MULTILINE):
        found.setdefault(name, []).append(version)
    return found


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        # A worker of the image can seal: it is a rule that any deployment may set.
        ("requirements.lock", [*RUNTIME, *SEALING]),
        ("requirements-dev.lock", [*RUNTIME, *EXTRAS, *GROUPS["dev"], *GROUPS["build"]]),
        ("deploy/locks/build.lock", GROUPS["build"]),
        ("deploy/locks/installer.lock", GROUPS["installer"]),
    ],
)
def test_every_requirement_is_pinned_to_a_version_that_satisfies_it(
    lock: str, requirements: list[str]
) -> None:
    """A dependency that was added or raised without running deploy/lock is found here."""
    pinned = pins(lock)
    stale = [
        text
        for text in requirements
        for requirement in [Requirement(text)]
        for versions in [pinned.get(re.sub(r"[-_.]+", "-", requirement.name).lower(), [])]
        if not versions or not all(requirement.specifier.contains(version) for version in versions)
    ]
    assert stale == [], f"run ./deploy/lock: {lock} does not fit {stale}"


def test_the_development_environment_contains_the_runtime_one() -> None:
    """Tests run on the versions that workers run on."""
    development = pins("requirements-dev.lock")
    assert {name: development.get(name) for name in pins("requirements.lock")} == pins("requirements.lock")


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes_and_no_address(lock: str) -> None:
    """Each pinned package lists SHA-256 hashes, and no line names where packages come from."""
    text = (ROOT / lock).read_text()
    for entry in re.split(r"\n(?=[a-z0-9])", text):
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text
    assert "--index" not in text

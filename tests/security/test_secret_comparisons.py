"""Secrets are compared in one place: the syntax tree of `src` has no other comparison of one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import narthex

SOURCE = Path(narthex.__file__).parent
THE_PLACE = SOURCE / "domain" / "secrets.py"

SECRET_NAME = re.compile(
    r"(?:^|_)(secret|token|ticket|password|bearer|api_key|admin_key|e2e_key|bypass_key|simulation_key"
    r"|candidate|credential|cookie|signature|ticket_hash|token_hash)s?$"
)
"""A variable, attribute or string key that names a secret; `…_id`, `…_url` and the like do not."""

ALLOWED = {
    # file: the comparisons that do not look at a secret's content, each with its reason
    # Redaction searches log text for live secrets; an attacker cannot observe how long that takes.
    "adapters/telemetry/redaction.py": {"secret in text", "secret in self._secrets"},
}


def terminal_name(node: ast.expr) -> str:
    """The last name of a variable, an attribute, or an item by constant key; constants are not secrets."""
    name = ""
    if isinstance(node, ast.Name):
        name = node.id
    elif isinstance(node, ast.Attribute):
        name = node.attr
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        name = str(node.slice.value)
    return "" if name.isupper() else name


def is_harmless(node: ast.expr) -> bool:
    """A comparison with a constant that is not a secret: None, empty, a number."""
    return isinstance(node, ast.Constant) and (node.value is None or node.value in ("", b"", 0))


def suspicious(tree: ast.AST) -> Iterator[ast.Compare]:
    """Comparisons by ==, != or `in` that involve the name of a secret."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        operands = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
            if isinstance(operator, ast.Eq | ast.NotEq):
                pair = (left, right)
                if any(map(is_harmless, pair)):
                    continue
                if any(SECRET_NAME.search(terminal_name(side).lower()) for side in pair):
                    yield node
            elif isinstance(operator, ast.In | ast.NotIn) and SECRET_NAME.search(terminal_name(left).lower()):
                yield node


def sources() -> list[Path]:
    """Every Python file of the package."""
    found = sorted(SOURCE.rglob("*.py"))
    assert len(found) > 50
    return found


def test_constant_time_comparison_is_in_one_place() -> None:
    """`compare_digest` is called by `domain/secrets.py` only."""
    users = [path for path in sources() if "compare_digest(" in path.read_text()]
    assert users == [THE_PLACE]


def test_no_secret_is_compared_otherwise() -> None:
    """Every comparison that names a secret is listed here with its reason, or uses `secrets.equal`."""
    found = []
    for path in sources():
        name = path.relative_to(SOURCE).as_posix()
        for node in suspicious(ast.parse(path.read_text())):
            text = ast.unparse(node)
            if text not in ALLOWED.get(name, set()):
                found.append(f"{name}:{node.lineno}: {text}")
    assert found == []


def test_the_search_finds_what_it_should() -> None:
    """The search must find planted comparisons; a test that cannot fail proves nothing."""
    bad = ["token == other", "self._key.secret != x", "password in known", "row['token_hash'] == wanted"]
    good = [
        "token is None",
        "token == ''",
        "carrier == E2E_KEY",
        "equal(token, other)",
        "token_type == 'Bearer'",
        "len(token) > 3",
    ]
    assert all(list(suspicious(ast.parse(text))) for text in bad)
    assert not [text for text in good if list(suspicious(ast.parse(text)))]
